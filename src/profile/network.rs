//! A network as a file of systemd-networkd (systemd.network(5)).

use super::{check, document::Network, template::Texts};
use crate::model::{FileConfig, Mac};

/// Where networkd finds it: before the image's own files, which have `80-` and the like in front.
pub fn path(network: &Network) -> String {
    format!("/etc/systemd/network/05-pristine-{}.network", network.name)
}

/// The file. `boots` is the NIC that boots, where it is known.
pub fn file(network: &Network, texts: &Texts<'_>) -> Result<FileConfig, super::Problem> {
    let place = |what: &str| format!("network {}, {what}", network.name);
    let one = |what: &str, text: &Option<String>, check: fn(&str) -> Result<(), String>| match text {
        Some(text) => texts.put_in(&place(what), text, check).map(Some),
        None => Ok(None),
    };
    let mut lines = vec!["# Made by Pristine from the machine's profiles.".to_owned(), "[Match]".to_owned()];
    match (one("mac", &network.mac, mac)?, one("interface", &network.interface, check::interface)?) {
        (Some(mac), _) => lines.push(format!("MACAddress={mac}")),
        (None, Some(interface)) => lines.push(format!("Name={interface}")),
        (None, None) => {
            let own = texts.put_in(&place("mac"), "{{ mac }}", mac)?;
            lines.push(format!("MACAddress={own}"));
        }
    }
    if let Some(mtu) = network.mtu {
        lines.extend(["[Link]".to_owned(), format!("MTUBytes={mtu}")]);
    }
    lines.push("[Network]".to_owned());
    lines.push(format!("DHCP={}", if network.dhcp { "yes" } else { "no" }));
    let mut many = |what: &str, key: &str, values: &[String], check: fn(&str) -> Result<(), String>| {
        for value in values {
            let value =
                texts.put_in(&place(what), value, |v| if v.is_empty() { Ok(()) } else { check(v) })?;
            // A template that becomes nothing is left out.
            if !value.is_empty() {
                lines.push(format!("{key}={value}"));
            }
        }
        Ok(())
    };
    many("addresses", "Address", &network.addresses, check::cidr)?;
    many("gateway", "Gateway", network.gateway.as_slice(), check::address)?;
    many("dns", "DNS", &network.dns, check::address)?;
    many("domains", "Domains", &network.domains, check::hostname)?;
    Ok(FileConfig {
        path: path(network),
        mode: 0o644,
        owner: "root".into(),
        group: "root".into(),
        content: lines.join("\n") + "\n",
    })
}

fn mac(text: &str) -> Result<(), String> {
    text.parse::<Mac>().map(drop).map_err(|e| e.to_string())
}
