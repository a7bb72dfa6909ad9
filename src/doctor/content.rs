//! What machines are to be given: boot programs and images.

use super::Check;
use crate::{
    config::Config,
    store::{ImageStore, Nbps},
};

/// Boot programs of the usual firmware.
const USUAL: [(&str, &str); 2] = [("undionly.kpxe", "BIOS"), ("snponly.efi", "UEFI x86-64")];

pub fn checks(config: &Config) -> Vec<Check> {
    vec![boot_programs(config), images(config)]
}

fn boot_programs(config: &Config) -> Check {
    let name = "boot programs";
    let dir = config.nbp_dir();
    let nbps = match Nbps::load(&dir) {
        Ok(nbps) => nbps,
        Err(e) => return Check::fail(name, e.to_string(), "pristine nbp fetch --force"),
    };
    let missing: Vec<String> = USUAL
        .iter()
        .filter(|(file, _)| nbps.get(file).is_none())
        .map(|(file, firmware)| format!("{file} ({firmware})"))
        .collect();
    let advice = "pristine nbp fetch";
    match missing.len() {
        0 => Check::ok(name, format!("{} in {}", nbps.list().len(), dir.display())),
        n if n == USUAL.len() => {
            Check::fail(name, format!("{} has none of {}", dir.display(), missing.join(", ")), advice)
        }
        _ => Check::warn(name, format!("{} has no {}", dir.display(), missing.join(", ")), advice),
    }
}

fn images(config: &Config) -> Check {
    let name = "images";
    let store = ImageStore::open_read_only(&config.state_dir.join("store"));
    let entries = match store.entries() {
        Ok(entries) => entries,
        Err(e) => return Check::fail(name, e.to_string(), "pristine image verify"),
    };
    if entries.is_empty() {
        return Check::warn(name, "there are none", "bring one in: pristine image import --help");
    }
    let damaged: Vec<String> = entries.iter().filter(|e| e.image.is_err()).map(|e| e.label()).collect();
    if !damaged.is_empty() {
        return Check::fail(name, format!("damaged: {}", damaged.join(", ")), "pristine image verify");
    }
    Check::ok(name, format!("{} in {}", entries.len(), config.state_dir.join("store").display()))
}
