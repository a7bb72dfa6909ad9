//! What firmware is told, by every way that it asks; and scripts, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../../fuzz/commands.rs"]
mod commands;

use super::*;
use crate::model::{
    Arch, AttemptId, BlobRef, BootClient, BootMethod, BootTarget, ClientArch, ClientKind, Digest, Image,
    IpxeFeatures, Mac, Machine, Manifest, RootFs, Verity,
};
use commands::{commands, is_plain, loads, loads_with};
use proptest::prelude::*;

const SERVER: ServerAddr = ServerAddr { ip: std::net::Ipv4Addr::new(198, 18, 0, 1), http_port: 8080 };
const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const TOKEN: &str = "tokentokentoken1";

fn client(kind: ClientKind, arch: impl Into<Option<ClientArch>>) -> BootClient {
    BootClient { mac: MAC, kind, arch: arch.into(), uuid: None, hostname: None }
}

fn image_target() -> BootTarget {
    BootTarget::Image { digest: Digest([0xab; 32]) }
}

fn ask(kind: ClientKind, arch: impl Into<Option<ClientArch>>) -> NbpAnswer {
    choose_nbp(&client(kind, arch), &image_target(), None, &SERVER)
}

fn tftp(file: &str) -> NbpAnswer {
    NbpAnswer::Tftp { file: file.to_owned() }
}

fn url(url: &str) -> NbpAnswer {
    NbpAnswer::Url { url: url.to_owned() }
}

fn script() -> NbpAnswer {
    url("http://198.18.0.1:8080/nbp/autoexec.ipxe")
}

const PXE: ClientKind = ClientKind::Firmware(BootMethod::Pxe);
const HTTP: ClientKind = ClientKind::Firmware(BootMethod::Http);

fn ipxe(http: bool, efi: bool, ours: bool) -> ClientKind {
    ClientKind::Ipxe(IpxeFeatures { http, efi, ours })
}

const ARCHES: &[ClientArch] = &[
    ClientArch::Bios,
    ClientArch::BiosHttp,
    ClientArch::UefiIa32,
    ClientArch::UefiX64,
    ClientArch::UefiArm32,
    ClientArch::UefiArm64,
    ClientArch::HttpIa32,
    ClientArch::HttpX64,
    ClientArch::HttpArm32,
    ClientArch::HttpArm64,
    ClientArch::UefiRiscv64,
    ClientArch::UefiLoong64,
    ClientArch::Other(0x77),
];

/// Architecture; its NBP, by TFTP or by HTTP as the firmware asks.
const NBPS: &[(ClientArch, Option<&str>)] = &[
    (ClientArch::Bios, Some("undionly.kpxe")),
    (ClientArch::BiosHttp, None),
    (ClientArch::UefiIa32, None),
    (ClientArch::UefiX64, Some("snponly.efi")),
    (ClientArch::UefiArm32, None),
    (ClientArch::UefiArm64, Some("ipxe-arm64.efi")),
    (ClientArch::HttpIa32, None),
    (ClientArch::HttpX64, Some("snponly.efi")),
    (ClientArch::HttpArm32, None),
    (ClientArch::HttpArm64, Some("ipxe-arm64.efi")),
    (ClientArch::UefiRiscv64, Some("ipxe-riscv64.efi")),
    (ClientArch::UefiLoong64, Some("ipxe-loong64.efi")),
    (ClientArch::Other(0x77), None),
];

#[test]
fn firmware_gets_the_nbp_that_fits_it_and_nothing_where_none_does() {
    for (arch, nbp) in NBPS {
        let by = |answer: fn(&str) -> NbpAnswer| nbp.map_or(NbpAnswer::AddressOnly, answer);
        assert_eq!(ask(PXE, *arch), by(tftp), "{arch:?} by PXE");
        let http = |file: &str| url(&format!("http://198.18.0.1:8080/nbp/{file}"));
        assert_eq!(ask(HTTP, *arch), by(http), "{arch:?} by HTTP");
    }
    assert_eq!(ask(PXE, None), tftp("undionly.kpxe"));
    assert_eq!(ask(HTTP, None), NbpAnswer::AddressOnly);
}

#[test]
fn ipxe_gets_a_script_or_an_ipxe_that_can_run_one() {
    for arch in ARCHES.iter().copied().map(Some).chain([None]) {
        for (efi, ours) in [(false, false), (true, false), (true, true), (false, true)] {
            assert_eq!(ask(ipxe(true, efi, ours), arch), script(), "{arch:?}");
            // Ours without HTTP would fetch itself for ever.
            if ours {
                assert_eq!(ask(ipxe(false, efi, ours), arch), NbpAnswer::AddressOnly);
            }
        }
    }
    for (arch, nbp) in NBPS {
        let answer = nbp.map_or(NbpAnswer::AddressOnly, |file| url(&format!("tftp://198.18.0.1/{file}")));
        assert_eq!(ask(ipxe(false, false, false), *arch), answer, "{arch:?}");
    }
    assert_eq!(ask(ipxe(false, false, false), None), url("tftp://198.18.0.1/undionly.kpxe"));
    assert_eq!(ask(ipxe(false, true, false), None), url("tftp://198.18.0.1/snponly.efi"));
}

#[test]
fn a_raspberry_pi_is_sent_to_our_tftp() {
    assert_eq!(ask(ClientKind::RaspberryPi, ClientArch::Bios), tftp("bootcode.bin"));
}

#[test]
fn systems_that_only_want_an_address_get_no_more() {
    for arch in ARCHES.iter().copied().map(Some).chain([None]) {
        for kind in [ClientKind::Init, ClientKind::Other] {
            assert_eq!(ask(kind, arch), NbpAnswer::AddressOnly, "{kind:?} {arch:?}");
        }
    }
}

#[test]
fn the_boot_target_decides_whether_there_is_an_nbp_at_all() {
    let kinds = [PXE, HTTP, ClientKind::RaspberryPi, ipxe(false, false, false), ipxe(true, true, false)];
    for kind in kinds {
        let get = |target| choose_nbp(&client(kind, ClientArch::UefiX64), &target, Some("a.efi"), &SERVER);
        assert_eq!(get(BootTarget::Ignore), NbpAnswer::AddressOnly, "{kind:?}");
        assert_eq!(get(BootTarget::Discover), get(image_target()), "{kind:?}");
        // An iPXE that runs already is told by its script to go on to the disk.
        let runs_scripts = kind == ipxe(true, true, false);
        let local = if runs_scripts { script() } else { NbpAnswer::AddressOnly };
        assert_eq!(get(BootTarget::Local), local, "{kind:?}");
    }
}

#[test]
fn an_operators_nbp_wins_where_its_name_is_one() {
    let get = |kind, arch, nbp| choose_nbp(&client(kind, Some(arch)), &image_target(), Some(nbp), &SERVER);
    assert_eq!(get(PXE, ClientArch::UefiX64, "ipxe.efi"), tftp("ipxe.efi"));
    assert_eq!(get(PXE, ClientArch::UefiIa32, "ipxe32.efi"), tftp("ipxe32.efi"));
    assert_eq!(get(HTTP, ClientArch::HttpX64, "my.efi"), url("http://198.18.0.1:8080/nbp/my.efi"));
    assert_eq!(get(ipxe(false, false, false), ClientArch::Bios, "x.pxe"), url("tftp://198.18.0.1/x.pxe"));
    assert_eq!(get(ipxe(true, false, false), ClientArch::Bios, "x.pxe"), script());
    for bad in ["", "../etc/passwd", "a/b", "a b", ".hidden", "a\n", "a?b", &"a".repeat(65)] {
        assert!(!is_nbp_name(bad), "{bad}");
        assert_eq!(get(PXE, ClientArch::UefiX64, bad), tftp("snponly.efi"), "{bad}");
    }
}

fn image(cmdline: &str) -> Image {
    let blob = |n| BlobRef { digest: Digest([n; 32]), size: 1 << 20 };
    Image {
        digest: Digest([0xab; 32]),
        manifest: Manifest {
            schema: 1,
            tag: "debian:1".parse().unwrap(),
            arch: Arch::X86_64,
            kernel: blob(1),
            initramfs: vec![blob(2)],
            rootfs: Some(RootFs {
                blob: blob(3),
                verity: Verity {
                    root_hash: Digest([4; 32]),
                    salt: Digest([5; 32]),
                    data_blocks: 256,
                    tree: blob(6),
                },
            }),
            cmdline: cmdline.to_owned(),
            native: true,
            labels: Default::default(),
            provenance: Default::default(),
        },
    }
}

fn machine() -> Machine {
    Machine { hostname: Some("web1".into()), serial: Some("CZ 1234".into()), ..Machine::new(MAC, 0) }
}

fn input<'a>(machine: &'a Machine, target: ScriptTarget<'a>) -> ScriptInput<'a> {
    ScriptInput {
        server: SERVER,
        machine,
        mac: MAC,
        target,
        attempt: AttemptId(0xfeed),
        token: TOKEN,
        generation: 7,
        args: &[],
        config: None,
        roots: Roots::Fetch,
    }
}

fn image_script(image: &Image) -> Result<String, ScriptError> {
    boot_script(&input(&machine(), ScriptTarget::Image(image)))
}

#[test]
fn the_whole_script_of_a_native_image() {
    insta::assert_snapshot!("image", image_script(&image("console=ttyS0 quiet")).unwrap());
}

#[test]
fn the_whole_script_of_a_foreign_image_with_two_initramfs_files() {
    let mut image = image("boot=live fetch={rootfs_url} ip=dhcp BOOTIF={bootif}");
    image.manifest.native = false;
    image.manifest.initramfs.push(BlobRef { digest: Digest([7; 32]), size: 1 });
    insta::assert_snapshot!("foreign", image_script(&image).unwrap());
}

#[test]
fn the_whole_scripts_of_other_targets() {
    let machine = machine();
    let script = |target| boot_script(&input(&machine, target)).unwrap();
    insta::assert_snapshot!("discover", script(ScriptTarget::Discover));
    insta::assert_snapshot!("local", script(ScriptTarget::Local));
    insta::assert_snapshot!("ignore", script(ScriptTarget::Ignore));
    let reason = "image debian:1 is for x86_64; the machine is aarch64";
    insta::assert_snapshot!("refused", script(ScriptTarget::Refused { reason }));
}

#[test]
fn the_whole_autoexec_script() {
    insta::assert_snapshot!("autoexec", autoexec_script(&SERVER));
    let default_port = ServerAddr { http_port: 80, ..SERVER };
    assert!(autoexec_script(&default_port).contains("set url http://198.18.0.1/boot/script?"));
}

#[test]
fn an_image_for_other_processors_is_refused_in_words() {
    let arm = Machine { arch: Some(Arch::Aarch64), ..machine() };
    let error = boot_script(&input(&arm, ScriptTarget::Image(&image("quiet")))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image debian:1 is for x86_64, but the machine's firmware starts aarch64: pin an image for aarch64"
    );
}

#[test]
fn command_lines_that_a_boot_loader_would_run_are_refused() {
    let check = |line: &str| cmdline::check(line, Arch::X86_64, true, true);
    for good in [
        "",
        "console=tty0 console=ttyS0,115200n8",
        "memmap=64M$0xd0000000 a.b=\"c d\"",
        "url={server}/x?boot={boot}&m={mac}",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in [
        "a=${net0/ip}",
        "a && shell",
        "a&&b",
        "x || y",
        "a;b",
        "; reboot",
        "#comment",
        "a=\u{1b}[2J",
        "naïve",
        "{unknown}",
        "{server",
        "server}",
        "{}",
        "a}{b",
        "{{server}}",
        "dyndbg=\"file a",
        "pristine.token=mine",
        "BOOTIF=01-00",
        "pristine.server={server}",
        "${{mac}}",
        "a=$${mac}",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
    for place in ["rootfs_url", "iso_url"] {
        let line = format!("root={{{place}}}");
        let error = cmdline::check(&line, Arch::X86_64, false, false).unwrap_err();
        assert_eq!(error, CmdlineError::NoRootfs(place));
        assert!(error.to_string().contains(&format!("names {{{place}}},")), "{error}");
    }
    // With all that Pristine puts in, 2,047 bytes are the kernel's limit.
    let long = format!("x={}", "y".repeat(1900));
    assert!(matches!(check(&long), Err(CmdlineError::TooLong { max: 2047, .. })));
    assert!(matches!(image_script(&image(&long)), Err(ScriptError::Cmdline(CmdlineError::TooLong { .. }))));
}

#[test]
fn a_line_that_import_accepts_never_fails_to_boot_for_its_length() {
    // The longest template that passes the check, with the longest real values.
    let mut good = String::new();
    for len in 1..2047 {
        let line = format!("x={}", "y".repeat(len));
        if cmdline::check(&line, Arch::X86_64, true, true).is_err() {
            break;
        }
        good = line;
    }
    let server = ServerAddr { ip: std::net::Ipv4Addr::BROADCAST, http_port: 65535 };
    let (machine, image, token) = (machine(), image(&good), "t".repeat(64));
    let longest = ScriptInput { server, token: &token, ..input(&machine, ScriptTarget::Image(&image)) };
    assert!(good.len() > 1000 && boot_script(&longest).is_ok());
}

#[test]
fn a_native_kernel_that_panics_restarts_unless_its_image_says_otherwise() {
    let line = |image: &Image| {
        let (server, token) =
            (ServerAddr { ip: std::net::Ipv4Addr::LOCALHOST, http_port: 1 }, "t".repeat(16));
        let (mac, boot) = (Mac([2; 6]), AttemptId(1));
        let input = cmdline::CmdlineInput {
            server,
            mac,
            boot,
            token: &token,
            args: &[],
            config: None,
            roots: Roots::Fetch,
        };
        cmdline::for_boot(image, &input).unwrap()
    };
    assert!(line(&image("quiet")).contains(" panic=30 "));
    let own = line(&image("panic=0 quiet"));
    assert_eq!(own.matches("panic=").count(), 1, "{own}");
}

#[test]
fn roots_that_are_streamed_are_said_so_to_native_images_alone() {
    let (machine, mut image) = (machine(), image("quiet"));
    let script = |image: &Image| {
        boot_script(&ScriptInput { roots: Roots::Stream, ..input(&machine, ScriptTarget::Image(image)) })
            .unwrap()
    };
    assert!(script(&image).contains(" pristine.root=stream "), "{}", script(&image));
    image.manifest.native = false;
    assert!(!script(&image).contains("pristine."), "{}", script(&image));
}

#[test]
fn a_machines_own_arguments_stand_behind_the_images_and_run_nothing() {
    let image = image("quiet console=tty0");
    let machine = machine();
    let script = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let config = Some(Digest([0xcd; 32]));
        boot_script(&ScriptInput { args: &args, config, ..input(&machine, ScriptTarget::Image(&image)) })
    };
    let good = script(&["console=ttyS1,115200", "mitigations=off"]).unwrap();
    assert!(good.contains(" quiet console=tty0 console=ttyS1,115200 mitigations=off "), "{good}");
    assert!(good.contains(" pristine.config=cdcdcdcdcdcd "), "{good}");
    for bad in [
        "",
        "a b",
        "${net0/mac}",
        "a&&shell",
        "a;b",
        "#x",
        "a\"b",
        "pristine.token=x",
        "BOOTIF=01",
        "initrd=x",
        "ä",
    ] {
        assert!(script(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn odd_tokens_are_refused() {
    for token in ["", "short", "tokentokentoken${x}", "tokentoken token1", &"t".repeat(65)] {
        let (machine, image) = (machine(), image("quiet"));
        let input = ScriptInput { token, ..input(&machine, ScriptTarget::Image(&image)) };
        assert_eq!(boot_script(&input), Err(CmdlineError::BadToken.into()), "{token}");
    }
}

fn hostile() -> impl Strategy<Value = String> {
    let bits = prop::sample::select(vec![
        "${net0/ip}",
        "${",
        "}",
        "\n",
        "\r\n",
        "&&",
        " && ",
        "||",
        " || ",
        ";",
        " ; ",
        "#",
        " #x",
        "'",
        "\"",
        "`",
        "\\",
        "shell",
        "reboot",
        " ",
        "{{who}}",
        "{{",
        "}}",
        "\0",
        "\u{1b}[2J",
        "é",
        "a",
        "web1",
        "-",
        "--",
        "$",
    ]);
    prop_oneof![prop::collection::vec(bits, 0..12).prop_map(|v| v.concat()), any::<String>()]
}

proptest! {
    #[test]
    fn nothing_that_a_machine_says_of_itself_becomes_a_command(
        hostname in hostile(), serial in hostile(), reason in hostile(),
    ) {
        let evil = Machine { hostname: Some(hostname), serial: Some(serial), ..machine() };
        let image = image("quiet");
        for target in [
            ScriptTarget::Image(&image), ScriptTarget::Discover, ScriptTarget::Local, ScriptTarget::Ignore,
            ScriptTarget::Refused { reason: &reason },
        ] {
            let target_of_good = match target {
                ScriptTarget::Refused { .. } => ScriptTarget::Refused { reason: "a reason" },
                other => other,
            };
            let script = boot_script(&input(&evil, target)).unwrap();
            let good = boot_script(&input(&machine(), target_of_good)).unwrap();
            prop_assert_eq!(commands(&script), commands(&good));
            prop_assert_eq!(loads(&script), loads(&good));
            prop_assert!(script.bytes().all(is_plain));
        }
    }

    #[test]
    fn a_kernel_argument_is_one_word_of_the_kernels(word in hostile()) {
        let (machine, image) = (machine(), image("quiet"));
        let with = |word: &str| {
            let args = [word.to_owned()];
            boot_script(&ScriptInput { args: &args, ..input(&machine, ScriptTarget::Image(&image)) })
        };
        if let Ok(script) = with(&word) {
            let good = with("one=word").unwrap();
            prop_assert_eq!(commands(&script), commands(&good));
            prop_assert_eq!(loads(&script), loads_with(&good, "one=word", &word));
        }
    }

    #[test]
    fn no_command_line_becomes_a_command(line in hostile()) {
        if let Ok(script) = image_script(&image(&line)) {
            prop_assert_eq!(commands(&script), commands(&image_script(&image("quiet")).unwrap()));
            prop_assert!(script.bytes().all(is_plain));
        }
    }
}
