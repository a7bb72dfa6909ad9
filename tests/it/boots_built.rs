//! What `image build` makes boots: of an OCI image, and of a Debian recipe, each on a BIOS and a UEFI machine.

use super::boots::{Slot, settings, tiny_root};
use pristine::{
    lab::{Firmware, Folder, Lab, Mode, Net, Spec},
    model::Stage,
};
use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

/// From power-on to healthy: a Debian under TCG takes two minutes, on a busy machine more.
const BOOT: Duration = Duration::from_secs(600);

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Builds `web:1` in a state folder of its own; the image's digest.
fn build(state: &Path, source: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
    command.arg("--state-dir").arg(state).args(["image", "build"]).arg(source);
    command.args(["--name", "web", "--version", "1", "--nics", "virtual", "--json"]).args(more);
    let value: serde_json::Value = serde_json::from_str(&run(&mut command)).unwrap();
    value["digest"].as_str().unwrap().to_owned()
}

/// Boots it on both firmwares to healthy.
fn boots(folder: &Folder, digest: &str, memory: u32) {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let lab = Lab::on(net, server, settings(folder, Mode::Full), Box::new(|_, _| {})).unwrap();
    lab.cli(&["default", "web:1"]).unwrap();
    for (n, firmware) in (1..).zip([Firmware::Bios, Firmware::UefiPxe]) {
        let vm = lab.power_on(Spec { memory, ..Spec::new(n, firmware) }).unwrap();
        let attempt = lab.follow().healthy(vm.spec().mac, &BTreeSet::new(), BOOT).unwrap_or_else(|e| {
            panic!("{firmware}: {e}\n--- console\n{}", vm.console().tail(60));
        });
        assert_eq!(attempt.image.unwrap().to_string(), digest);
        assert!(attempt.stages.iter().any(|s| s.stage == Stage::Verified), "{attempt:?}");
    }
}

#[test]
fn an_oci_image_builds_and_boots_on_bios_and_uefi() {
    let _slot = Slot::take();
    let folder = Folder::temporary("oci").unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny_root(&at("root"), "oci");
    let layout = at("layout");
    let image = format!("{}:tiny", layout.display());
    let umoci = |words: &[&str]| run(Command::new("umoci").args(words));
    run(Command::new("umoci").arg("init").arg("--layout").arg(&layout));
    umoci(&["new", "--image", &image]);
    umoci(&["insert", "--image", &image, at("root").to_str().unwrap(), "/"]);
    let digest = build(&at("state"), &layout, &[]);
    boots(&folder, &digest, 1024);
}

#[test]
fn a_debian_recipe_builds_the_same_twice_and_boots_on_bios_and_uefi() {
    let _slot = Slot::take();
    let folder = Folder::temporary("recipe").unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recipe");
    // Builds it a second time, elsewhere and later.
    let digest = build(&folder.path().join("state"), &recipe, &["--check"]);
    boots(&folder, &digest, 2048);
}
