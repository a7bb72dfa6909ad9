//! What this machine boots, asked of the server by an initramfs that did not come from it: a USB stick or a UKI
//! names the server alone. The answer is believed only as far as keys that the initramfs carries vouch for it.

use crate::{
    cmdline::Words,
    failure::{Doing, Result, failed},
    fetch,
};
use std::{net::SocketAddrV4, path::Path};

/// Longest boot script that is read.
const MAX_SCRIPT: u64 = 64 << 10;
/// All that the server may say; anything else of its command line is its kernel's, which does not run here.
const WORDS: [&str; 5] =
    ["pristine.image=", "pristine.discover", "pristine.boot=", "pristine.token=", "pristine.root="];

/// Asks for the machine's boot script, and takes from it which image, for which boot attempt. No key vouches for a configuration: it is
/// taken only where the command line that the initramfs was started with says so, and a machine that needs one doesn't run without.
pub fn ask(server: SocketAddrV4, mac: [u8; 6], takes_config: bool) -> Result<Words> {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    let platform = if Path::new("/sys/firmware/efi").exists() { "efi" } else { "pcbios" };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { std::env::consts::ARCH };
    let path = format!("/boot/script?mac={mac}&platform={platform}&buildarch={arch}");
    let bytes = fetch::whole(server, &path, None, MAX_SCRIPT, "this machine's boot script")?;
    read(std::str::from_utf8(&bytes).doing("read this machine's boot script")?, takes_config)
}

fn read(script: &str, takes_config: bool) -> Result<Words> {
    let ours = |l: &str| l.contains(" pristine.image=") || l.contains(" pristine.discover ");
    let kernel = script.lines().find(|l| l.starts_with("kernel ") && ours(l));
    let Some(kernel) = kernel else {
        let why = script.lines().find_map(|l| l.strip_prefix("echo Why: "));
        let why: String =
            why.unwrap_or("it is assigned none").chars().filter(|c| !c.is_control()).take(600).collect();
        return failed(format!("the server names no image for this machine: {why}"));
    };
    if kernel.contains(" pristine.config=") && !takes_config {
        return failed(
            "the server has a configuration for this machine, and its initramfs, which carries keys, takes none: no key vouches for it. \
             Put pristine.config=yes on the command line that it is started with, or take the machine's profiles away",
        );
    }
    let taken: Vec<&str> =
        kernel.split_ascii_whitespace().filter(|w| WORDS.iter().any(|ours| w.starts_with(ours))).collect();
    Ok(Words::parse(&taken.join(" ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn takes_its_words_and_no_other() {
        let script = "#!ipxe\nset url x\nkernel --name vmlinuz.efi http://198.18.0.1/k?boot=1 initrd=initrd0 init=/bin/sh \
                      pristine.server=http://198.18.0.66 pristine.image=ab pristine.boot=1 pristine.token=t pristine.root=stream BOOTIF=01-02 || goto failed\nboot\n";
        assert_eq!(
            read(script, false),
            Ok(Words::parse("pristine.image=ab pristine.boot=1 pristine.token=t pristine.root=stream"))
        );
    }

    #[test]
    fn a_configuration_that_no_key_vouches_for_is_taken_only_where_the_own_command_line_says_so() {
        let script =
            "kernel x pristine.image=ab pristine.boot=1 pristine.token=t pristine.config=cd || goto failed\n";
        assert!(read(script, false).unwrap_err().0.contains("takes none"));
        assert_eq!(
            read(script, true),
            Ok(Words::parse("pristine.image=ab pristine.boot=1 pristine.token=t"))
        );
    }

    #[test]
    fn a_screen_is_no_image_and_says_why() {
        let refused = "#!ipxe\necho\necho Why: image web:1 is not signed\necho Machine: x\n";
        let why = read(refused, false).unwrap_err().0;
        assert!(why.contains("names no image for this machine: image web:1 is not signed"), "{why}");
        assert!(read("#!ipxe\nsleep 10\n", false).unwrap_err().0.contains("assigned none"));
        assert!(read("", false).is_err());
    }
}
