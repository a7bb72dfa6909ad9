//! A real boot with a configuration and a volume: what stays is the volume's alone.

use super::boots::{LINE, Site, Slot};
use pristine::lab::{Firmware, Shell, Spec};
use std::collections::BTreeSet;

const PROFILE: &str = r#"
hostname = "{{ name }}"
kernel_args = ["pristine.test.profile={{ label.role }}"]

[[user]]
name = "ops"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGNvbWU= ops"]

[[file]]
path = "/etc/role"
mode = "0600"
owner = "ops"
group = "ops"
template = "{{ label.role }} of {{ image.tag }} at {{ address }}\n"

[[file]]
path = "/etc/db-password"
mode = "0600"
secret = "db-password"

[[volume]]
mount = "/var/lib/db"
label = "db-data"
format = "if-blank"
serial = "DATA"
owner = "ops"
mode = "0750"
"#;

#[test]
fn a_machine_gets_its_configuration_and_keeps_its_data_over_three_images() {
    let _slot = Slot::take();
    let site = Site::up();
    let at = |name: &str| site.folder.path().join(name);
    let disk = at("disk");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    std::fs::write(at("db.toml"), PROFILE).unwrap();

    let spec = Spec { disk: Some(disk), ..Spec::new(1, Firmware::Bios) };
    let mac = spec.mac.to_string();
    site.lab.cli(&["machine", "set", &mac, "--hostname", "db7", "--label", "role=db"]).unwrap();
    std::fs::write(at("password"), "hunter2").unwrap();
    let password = at("password").to_string_lossy().into_owned();
    site.lab.cli(&["secret", "set", "db-password", "--file", &password]).unwrap();
    let file = at("db.toml").to_string_lossy().into_owned();
    site.lab.cli(&["profile", "set", "db", "--select", "label.role=db", &file]).unwrap();
    let shown = site.lab.cli(&["machine", "render", "db7"]).unwrap_or_default();
    assert!(!shown.contains("hunter2"), "{shown}");
    let mut vm = site.lab.power_on(spec).unwrap();
    let mut before = BTreeSet::new();
    for (nth, tag) in (1..).zip(["tiny:1", "tiny:2", "tiny:3"]) {
        site.lab.cli(&["pin", &mac, tag]).unwrap();
        if nth > 1 {
            vm.reset().unwrap();
        }
        let attempt = site.healthy(&vm, &before);
        let config = attempt.config.unwrap();
        assert!(config.delivered.is_some() && config.profiles == ["db"], "{config:?}");

        let mut shell = site.show(&vm, Shell::open(vm.console(), LINE));
        let mut run = |line: &str| site.show(&vm, shell.run(line, LINE));
        assert_eq!(run("cat /etc/pristine-image; hostname; cat /etc/hostname"), format!("{tag}\ndb7\ndb7"));
        let role = run("cat /etc/role");
        assert!(role.starts_with(&format!("db of {tag} at 198.18.0.")), "{role}");
        assert_eq!(run("cat /etc/db-password"), "hunter2");
        let words = run("stat -c '%a %U %n' /etc/role /home/ops/.ssh/authorized_keys /var/lib/db");
        let wanted = "600 ops /etc/role\n600 ops /home/ops/.ssh/authorized_keys\n750 ops /var/lib/db";
        assert_eq!(words, wanted);
        assert_eq!(
            run("grep -o 'profile=[a-z]*' /proc/cmdline; grep -c '^ops:[*]:' /etc/shadow"),
            "profile=db\n1"
        );
        // What a boot wrote: on the volume it stays, in the root it does not.
        let kept = run("cat /var/lib/db/boots; ls /precious 2>/dev/null || echo pristine");
        let boots: Vec<String> = (1..nth).map(|n| format!("tiny:{n}")).collect();
        assert_eq!(kept.lines().filter(|l| l.starts_with("tiny:")).collect::<Vec<_>>(), boots);
        assert!(kept.ends_with("pristine"), "{kept}");
        run(&format!("echo {tag} >>/var/lib/db/boots; echo x >/precious; sync"));
        // Nobody gets it a second time: not the running system either, whose command line names the token.
        let again = run(
            "t=$(sed 's/.*pristine.token=//;s/ .*//' /proc/cmdline); wget -q -O - --header \"Authorization: Bearer $t\" \
             --post-data '{\"nonce\":\"00112233445566778899aabbccddeeff\"}' http://198.18.0.1:8080/boot/config 2>&1 | tail -n 1",
        );
        assert!(again.contains("401") && !again.contains("digest"), "{again}");
        before = site.lab.follow().so_far(vm.spec().mac);
    }
    let console = vm.console().text();
    let log = std::fs::read_to_string(site.lab.service().log_path()).unwrap();
    assert!(!log.contains("hunter2"), "a secret in the log");
    assert_eq!(console.matches("is blank, making ext4 on it").count(), 1, "made once, then found");
}
