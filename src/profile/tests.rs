#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use crate::model::{Arch, BlobRef, Digest, Image, Mac, Machine, Manifest, Secret};
use proptest::prelude::*;

fn image() -> Image {
    let manifest = Manifest {
        schema: 1,
        tag: "web:2".parse().unwrap(),
        arch: Arch::X86_64,
        kernel: BlobRef { digest: Digest([1; 32]), size: 1 },
        initramfs: Vec::new(),
        rootfs: None,
        cmdline: String::new(),
        labels: Default::default(),
        provenance: Default::default(),
        native: true,
    };
    Image { digest: Digest([0xab; 32]), manifest }
}

fn machine() -> Machine {
    let mut machine = Machine::new(Mac([0x52, 0x54, 0, 0, 0, 1]), 0);
    machine.hostname = Some("db7".into());
    machine.rack = Some("a1".into());
    machine.labels.insert("role".into(), "db".into());
    machine
}

fn profile(name: &str, selector: &str, created: i64, document: &str) -> Result<Profile, String> {
    let (name, selector, document) = (name.to_owned(), selector.to_owned(), document.to_owned());
    Profile::new(ProfileRecord { name, selector, document, created, changed: created })
}

fn made(profiles: Vec<Profile>) -> Result<Option<Configured>, Problem> {
    let mut all = Profiles::default();
    profiles.into_iter().for_each(|p| all.put(Arc::new(p)));
    let machine = machine();
    let values = Values::new(&machine, Some(&image()), Some([198, 18, 0, 9].into()));
    render(&all.of(&machine), &values, &Secrets::Hidden)
}

fn one(document: &str) -> Result<Configured, Problem> {
    made(vec![profile("p", "all", 0, document).unwrap()]).map(Option::unwrap)
}

#[test]
fn facts_are_put_into_every_text() {
    let document = r##"
hostname = "{{ hostname }}.example.org"
kernel_args = ["console=ttyS1", "{% if label.role == 'db' %}hugepages=8{% endif %}", "{% if rack == 'b' %}x{% endif %}"]
[[user]]
name = "ops"
uid = 1500
groups = ["adm"]
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops@{{ rack }}"]
[[file]]
path = "/etc/role"
mode = "0600"
template = "{{ label.role }} {{ name }} {{ address }} {{ image.tag }} {{ image.version }} {{ macs | join(',') }} {{ serial | default('none') }}\n"
[[file]]
path = "/etc/as-it-stands"
content = "{{ nobody }}"
[[network]]
name = "main"
addresses = ["10.0.0.5/24"]
gateway = "10.0.0.1"
dns = ["10.0.0.2", "2001:db8::2"]
[cloud_init]
user_data = "#cloud-config\n"
[[volume]]
mount = "/var/lib/db"
label = "{{ label.role }}-data"
format = "if-blank"
min_size = "100G"
mode = "0700"
[ignition]
config = '{"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "/etc/{{ rack }}"}]}}'
"##;
    let config = one(document).unwrap().config;
    assert_eq!(config.hostname.as_deref(), Some("db7.example.org"));
    assert_eq!(config.kernel_args, ["console=ttyS1", "hugepages=8"]);
    assert_eq!(config.users[0].ssh_keys.as_ref().unwrap(), &["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops@a1"]);
    let file = |path: &str| config.files.iter().find(|f| f.path == path).unwrap();
    assert_eq!(file("/etc/role").content, "db db7 198.18.0.9 web:2 2 52:54:00:00:00:01 none\n");
    assert_eq!((file("/etc/role").mode, file("/etc/role").owner.as_str()), (0o600, "root"));
    assert_eq!(file("/etc/as-it-stands").content, "{{ nobody }}");
    let network = &file("/etc/systemd/network/05-pristine-main.network").content;
    for line in [
        "MACAddress=52:54:00:00:00:01",
        "DHCP=no",
        "Address=10.0.0.5/24",
        "Gateway=10.0.0.1",
        "DNS=2001:db8::2",
    ] {
        assert!(network.lines().any(|l| l == line), "{network}");
    }
    let volume = &config.volumes[0];
    assert_eq!((volume.label.as_str(), volume.format, volume.min_size), ("db-data", true, Some(100 << 30)));
    assert_eq!((volume.mode, volume.filesystem.as_str()), (Some(0o700), "ext4"));
    let seed = "/var/lib/cloud/seed/nocloud";
    assert_eq!(file(&format!("{seed}/user-data")).content, "#cloud-config\n");
    assert!(file(&format!("{seed}/meta-data")).content.contains("local-hostname: db7\n"));
    assert!(file("/usr/lib/ignition/user.ign").content.contains("/etc/a1"));
}

#[test]
fn what_picks_a_machine_closer_counts_more_and_then_what_is_older() {
    let weak = r#"
hostname = "weak"
kernel_args = ["quiet", "console=tty0", "console=ttyS0"]
[[file]]
path = "/etc/both"
content = "weak"
[[file]]
path = "/etc/weak"
content = "weak"
"#;
    let strong = |name| {
        format!(
            "hostname = '{name}'\nkernel_args = ['console=ttyS1']\n[[file]]\npath = '/etc/both'\ncontent = '{name}'\n"
        )
    };
    let all = || {
        vec![
            profile("weak", "all", 0, weak).unwrap(),
            profile("younger", "rack=a1", 9, &strong("younger")).unwrap(),
            profile("older", "rack=a1", 5, &strong("older")).unwrap(),
            profile("elsewhere", "rack=b1 and label.role=db", 1, "hostname = 'no'").unwrap(),
        ]
    };
    let got = made(all()).unwrap().unwrap();
    assert_eq!(got.profiles, ["older", "younger", "weak"]);
    assert_eq!(got.config.hostname.as_deref(), Some("older"));
    assert_eq!(got.config.kernel_args, ["quiet", "console=ttyS1"]);
    let files: Vec<_> = got.config.files.iter().map(|f| (f.path.as_str(), f.content.as_str())).collect();
    assert_eq!(files, [("/etc/both", "older"), ("/etc/weak", "weak")]);
    let mut turned = all();
    turned.reverse();
    assert_eq!(made(turned).unwrap().unwrap().digest, got.digest, "whatever the order in which they are set");
    assert_eq!(made(vec![profile("x", "rack=b1", 0, "hostname='x'").unwrap()]).unwrap(), None);
}

#[test]
fn what_is_wrong_is_said_when_it_is_set_with_place_and_line() {
    let file = |rest: &str| format!("[[file]]\npath = '/etc/x'\n{rest}");
    let volume = |rest: &str| format!("[[volume]]\nmount = '/data'\nlabel = 'data'\n{rest}\n");
    for (document, parts) in [
        ("hostname = 5", &["line 1, column 12", "string"][..]),
        ("\nhostnam = 'x'", &["line 2", "hostnam"]),
        ("hostname = '-x'", &["hostname", "can't be a host name"]),
        ("hostname = '{{ hostnam }}'", &["nothing is called hostnam (did you mean hostname?)"]),
        (&file("template = \"a\\n{{ rack\""), &["file /etc/x, template, line 2", "syntax error"]),
        (&file("content = 'x'\nmode = '888'"), &["file /etc/x, mode", "no mode"]),
        (&file("content = 'x'\nowner = 'a:b'"), &["file /etc/x, owner", "can't be the name"]),
        (&file(""), &["file /etc/x", "missing"]),
        (&file("content = 'x'\ntemplate = 'x'"), &["choose one"]),
        (&[file("content=''"), file("content=''")].join("\n"), &["file /etc/x", "twice"]),
        ("[[file]]\npath = 'etc/x'\ncontent = ''", &["no absolute path"]),
        ("[[file]]\npath = '/etc/../x'\ncontent = ''", &["without `..`"]),
        ("[[file]]\npath = '/run/x'\ncontent = ''", &["would be hidden"]),
        ("kernel_args = ['a b']", &["kernel_args", "a b"]),
        ("kernel_args = ['pristine.token=x']", &["put on the command line by Pristine itself"]),
        ("[[user]]\nname = 'Root:'", &["user Root:", "can't be the name"]),
        ("[[user]]\nname = 'x'\npassword_hash = 'secret'", &["no password hash"]),
        ("[[user]]\nname = 'x'\nssh_keys = ['rubbish']", &["ssh_keys", "no SSH key"]),
        ("[[user]]\nname = 'x'\nhome = '/home/x:y'", &["home", "colon"]),
        ("[[network]]\nname = 'n'\naddresses = ['10.0.0.1']", &["addresses", "with a prefix"]),
        ("[[network]]\nname = 'n/..'", &["network n/..", "can't be this name"]),
        ("[[network]]\nname = 'n'\ngateway = '10.0.0.256'", &["no address"]),
        (&volume("format = 'if-blank'"), &["volume /data, format", "which disk"]),
        (&volume("format = 'always'"), &["line 4", "if-blank"]),
        (&volume("filesystem = 'btrfs'"), &["volume /data, filesystem", "none of ext4, xfs"]),
        (&volume("min_size = '5 apples'"), &["min_size", "no size"]),
        (&volume("options = ['suid']"), &["options", "none of noatime"]),
        (&volume("format = 'if-blank'\nmin_size = '1G'\noptions = ['ro']"), &["only read"]),
        ("[[volume]]\nmount = '/usr/x'\nlabel = 'x'", &["image's own"]),
        ("[[volume]]\nmount = '/x'\nlabel = 'seventeen-letters'", &["can't be a label of ext4"]),
        (
            &[volume(""), volume("").replace("/data", "/more")].concat(),
            &["label", "volume /data has the label data"],
        ),
        ("[cloud_init]\nuser_data = 'x'", &["cloud_init, user_data", "#cloud-config"]),
        ("[ignition]\nconfig = '{}'", &["ignition", "version"]),
        ("[ignition]\nconfig = '{'", &["no JSON"]),
        ("[ignition]\nconfig = '{\"ignition\":{\"version\":\"2.2.0\"}}'", &["2.2.0"]),
    ] {
        let said = profile("p", "all", 0, document).unwrap_err();
        assert!(said.contains("profile p"), "{said}");
        assert!(parts.iter().all(|p| said.contains(p)), "{document}: {said}");
    }
    let long = format!("[[file]]\npath = '/x'\ncontent = '{}'", "x".repeat(MAX_DOCUMENT));
    assert!(profile("p", "all", 0, &long).unwrap_err().contains("1048576 are the most"));
    assert!(profile("p", "rack=", 0, "").unwrap_err().contains("column 6"));
}

#[test]
fn what_a_machine_lacks_is_named_with_the_line() {
    let at = |template: &str| {
        one(&format!("[[file]]\npath = '/etc/x'\ntemplate = '''\n{template}'''")).unwrap_err().to_string()
    };
    let said = at("first\n{{ label.site }}\n");
    assert!(
        said.starts_with("profile p, file /etc/x, template, line 2: ") && said.contains("site"),
        "{said}"
    );
    assert!(at("{{ serial }}").contains("serial"));
    assert!(at("{{ rack | nosuch }}").contains("line 1: unknown filter"));
    assert!(at("{{ label.site.x }}").contains("undefined"));
    let said = one("hostname = '{{ rack }}_'").unwrap_err().to_string();
    assert!(said.contains("hostname: `a1_` can't be a host name"), "checked again with facts: {said}");
    let said = one("kernel_args = ['x={{ label }}']").unwrap_err().to_string();
    assert!(said.contains("kernel_args"), "{said}");
}

#[test]
fn secrets_are_hidden_but_from_their_machine_and_only_where_nobody_else_looks() {
    let document = r#"
[[user]]
name = "ops"
password_hash = "{{ secret('ops-' ~ hostname) }}"
[[file]]
path = "/etc/db.conf"
mode = "0600"
template = "password={{ secret('db') | upper }}\n"
[[file]]
path = "/etc/key"
secret = "key"
"#;
    let hidden = one(document).unwrap();
    let contents = |c: &Configured| c.config.files.iter().map(|f| f.content.clone()).collect::<Vec<_>>();
    assert_eq!(contents(&hidden), ["password=<SECRET:DB>\n", "<secret:key>"]);
    assert_eq!(hidden.secrets.iter().map(String::as_str).collect::<Vec<_>>(), ["db", "key", "ops-db7"]);
    let profiles = [Arc::new(profile("p", "all", 0, document).unwrap())];
    let (machine, image) = (machine(), image());
    let values = Values::new(&machine, Some(&image), None);
    let known = |hash: &str| {
        let all = [("db", "hush"), ("key", "k3y"), ("ops-db7", hash)];
        let all = all.map(|(name, value)| (name.to_owned(), Secret::new(value.as_bytes().to_vec())));
        render(&profiles, &values, &Secrets::Known(Arc::new(all.into()))).map(Option::unwrap)
    };
    let got = known("$6$salt$0123456789abcdef").unwrap();
    assert_eq!(contents(&got), ["password=HUSH\n", "k3y"]);
    assert_eq!(got.config.users[0].password_hash.as_deref(), Some("$6$salt$0123456789abcdef"));
    let said = known("hunter2").unwrap_err().to_string();
    assert!(said.contains("user ops, password_hash") && !said.contains("hunter2"), "{said}");
    for elsewhere in ["hostname = \"{{ secret('x') }}\"", "kernel_args = [\"x={{ secret('x') }}\"]"] {
        let said = one(elsewhere).unwrap_err().to_string();
        assert!(said.contains("a secret can't be used here"), "{said}");
    }
}

#[test]
fn templates_reach_nothing_else_and_end() {
    for template in
        ["{% include '/etc/passwd' %}", "{% extends 'x' %}", "{{ debug() }}", "{% import 'x' as x %}"]
    {
        assert!(
            profile("p", "all", 0, &format!("[[file]]\npath='/x'\ntemplate=\"{template}\"")).is_err(),
            "{template}"
        );
    }
    for template in [
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{% set x = 'x' * 60000 %}{% for a in range(9999) %}{{ x }}{% endfor %}",
    ] {
        let said = one(&format!("[[file]]\npath='/x'\ntemplate=\"{template}\"")).unwrap_err().to_string();
        assert!(said.contains("too much work") || said.contains("invalid operation"), "{said}");
    }
}

proptest! {
    #[test]
    fn any_document_is_taken_or_refused_in_words(text in "\\PC{0,200}") {
        let _ = profile("p", "all", 0, &text);
        let _ = profile("p", "all", 0, &format!("hostname = '''{}'''", text.replace("'''", "")));
    }

    #[test]
    fn a_path_that_is_taken_stays_below_the_root_and_in_sight(path in "[/.a-z]{1,20}|/(run|proc|etc)/[a-z./]{0,8}") {
        if check::path(&path).is_ok() {
            prop_assert!(path.starts_with('/') && !path.contains("/../") && !path.ends_with("/.."));
            prop_assert!(!path.starts_with("/run/") && !path.starts_with("/proc/"));
        }
    }
}
