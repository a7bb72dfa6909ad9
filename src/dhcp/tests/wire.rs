//! Reading packets that lie, and telling who asks.

use super::*;
use crate::model::{BootMethod, ClientArch, ClientKey, ClientKind, IpxeFeatures};

#[test]
fn what_is_not_a_dhcp_request_from_an_ethernet_client_is_refused_by_name() {
    let good = Packet::discover(mac(1)).bytes();
    assert!(parse(&good).is_ok());
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes).map(|_| ())
    };
    assert_eq!(parse(&good[..239]).map(|_| ()), Err(Malformed::TooShort));
    assert_eq!(parse(&[]).map(|_| ()), Err(Malformed::TooShort));
    assert_eq!(parse(&vec![1; 4_097]).map(|_| ()), Err(Malformed::TooLong));
    assert_eq!(with(0, 2), Err(Malformed::NotARequest));
    assert_eq!(with(1, 32), Err(Malformed::NotEthernet));
    for hlen in [0, 5, 7, 16, 17, 255] {
        assert_eq!(with(2, hlen), Err(Malformed::NotEthernet));
    }
    assert_eq!(with(3, 17), Err(Malformed::TooManyHops));
    assert_eq!(with(28, 0x53), Err(Malformed::BadMac));
    assert_eq!(with(236, 0), Err(Malformed::NoMagic));
    let mut kit = Kit::new();
    let bootp = Packet { options: Vec::new(), ..Packet::discover(mac(1)) };
    assert_eq!(kit.silence(&bootp), Reason::NotDhcp);
    for kind in [0, 2, 5, 6, 13, 255] {
        assert_eq!(kit.silence(&Packet::new(kind, mac(1))), Reason::Unexpected);
    }
}

#[test]
fn one_bad_option_hides_no_other() {
    // dhcproto can't decode an option 12 that is not UTF-8 or a lease time of three bytes.
    let packet = Packet::discover(mac(1)).with(12, &[0xff, 0xfe]).with(51, &[1, 2, 3]).with(54, &[]).pxe(7);
    let req = packet.request();
    assert_eq!(req.boot_client().kind, ClientKind::Firmware(BootMethod::Pxe));
    assert_eq!((req.boot_client().hostname, req.lease_wanted(), req.server_id()), (None, None, None));
    // A length that runs past the end ends the walk; what came before counts.
    let mut bytes = packet.bytes();
    bytes.truncate(bytes.iter().rposition(|b| *b == 255).unwrap());
    bytes.extend([50, 200, 1, 2]);
    let req = parse(&bytes).unwrap();
    assert_eq!((req.message_type(), req.requested_ip()), (Some(MessageType::Discover), None));
}

#[test]
fn split_options_are_joined_even_when_others_stand_between() {
    let packet =
        Packet::discover(mac(1)).with(60, b"PXECl").with(12, b"n1").with(60, b"ient").with(93, &[0, 11]);
    let client = packet.request().boot_client();
    assert_eq!(client.kind, ClientKind::Firmware(BootMethod::Pxe));
    assert_eq!((client.arch, client.hostname.as_deref()), (Some(ClientArch::UefiArm64), Some("n1")));
}

#[test]
fn overload_is_followed_into_file_and_sname() {
    let mut bytes = Packet::discover(mac(1)).with(52, &[3]).bytes();
    bytes[108..108 + 12].copy_from_slice(b"\x3c\x09PXEClient\xff");
    bytes[44..44 + 5].copy_from_slice(&[93, 2, 0, 7, 255]);
    let client = parse(&bytes).unwrap().boot_client();
    assert_eq!(
        (client.kind, client.arch),
        (ClientKind::Firmware(BootMethod::Pxe), Some(ClientArch::UefiX64))
    );
    bytes[240 + 5] = 1;
    assert_eq!(parse(&bytes).unwrap().boot_client().arch, None, "only `file` holds options");
    bytes[240 + 5] = 0;
    assert_eq!(parse(&bytes).unwrap().boot_client().kind, ClientKind::Other);
}

#[test]
fn the_first_known_architecture_of_the_list_counts() {
    let arch = |value: &[u8]| Packet::discover(mac(1)).with(93, value).request().boot_client().arch;
    assert_eq!(arch(&[0, 7]), Some(ClientArch::UefiX64));
    assert_eq!(arch(&[0, 9]), Some(ClientArch::UefiX64));
    assert_eq!(arch(&[0x12, 0x34, 0, 16, 0, 0]), Some(ClientArch::HttpX64));
    assert_eq!(arch(&[0x12, 0x34]), Some(ClientArch::Other(0x1234)));
    assert_eq!(arch(&[0, 0x27, 7]), Some(ClientArch::UefiLoong64));
    assert_eq!((arch(&[]), arch(&[7])), (None, None));
}

#[test]
fn ipxe_is_known_by_its_features_or_either_form_of_user_class() {
    let kind = |p: Packet| p.pxe(7).request().boot_client().kind;
    let ipxe = |http, efi, ours| ClientKind::Ipxe(IpxeFeatures { http, efi, ours });
    let base = || Packet::discover(mac(1));
    assert_eq!(kind(base().with(77, b"iPXE")), ipxe(false, false, false));
    assert_eq!(kind(base().with(77, b"\x04iPXE")), ipxe(false, false, false));
    assert_eq!(kind(base().with(77, b"\x02ab\x04iPXE")), ipxe(false, false, false));
    assert_eq!(kind(base().with(77, b"pristine")), ipxe(false, false, true));
    assert_eq!(kind(base().with(77, b"\x08pristine").with(175, &[19, 1, 1])), ipxe(true, false, true));
    assert_eq!(kind(base().with(175, &[0xb1, 1, 2, 36, 1, 1, 19, 1, 0])), ipxe(false, true, false));
    for other in [&b"iPXEx"[..], b"\x09iPXE", b"", b"\x00", b"\xffiPXE"] {
        assert_eq!(kind(base().with(77, other)), ClientKind::Firmware(BootMethod::Pxe), "{other:?}");
    }
    let init = base().with(60, b"pristine-init").request().boot_client();
    assert_eq!(init.kind, ClientKind::Init);
}

#[test]
fn identity_is_read_as_sent_and_only_when_well_formed() {
    let uuid = |v: &[u8]| Packet::discover(mac(1)).with(97, v).request().boot_client().uuid;
    assert_eq!(uuid(&[&[0][..], &[5; 16]].concat()), Some([5; 16]));
    assert_eq!((uuid(&[5; 17]), uuid(&[0; 16]), uuid(&[])), (None, None, None));
    let key = |v: &[u8]| Packet::discover(mac(1)).with(61, v).request().client_key();
    assert_eq!(key(&[1, 2]), ClientKey::Id(vec![1, 2]));
    assert_eq!((key(&[]), key(&[1])), (ClientKey::Mac(mac(1)), ClientKey::Mac(mac(1))));
    let name = |v: &[u8]| Packet::discover(mac(1)).with(12, v).request().boot_client().hostname;
    assert_eq!(name(b"web-1.lab\0"), Some("web-1.lab".into()));
    for bad in [&b"a b"[..], b"", b"-a", b"$(reboot)", b"\xc3\xa9", b"a\x1b[0m"] {
        assert_eq!(name(bad), None, "{bad:?}");
    }
}
