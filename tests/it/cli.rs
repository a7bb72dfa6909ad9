//! The command line as people meet it: what it says, on which stream, with which exit code.

use super::api::{Dir, TOKEN, TestApi};
use std::{
    path::Path,
    process::{Command, Output},
};

/// Who sits at the command line.
pub const OPERATOR: &str = "alice@adm1";

/// `pristine` with these arguments, no configuration and nothing of the environment.
fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
    for name in ["PRISTINE_API", "PRISTINE_TOKEN_FILE", "PRISTINE_CONFIG"] {
        command.env_remove(name);
    }
    command.env("PRISTINE_OPERATOR", OPERATOR).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fails(args: &[&str], code: i32) -> String {
    let out = run(args);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    assert_eq!(text(&out.stdout), "", "{args:?}: errors go to standard error");
    text(&out.stderr)
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let out = run(args);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn help_lists_every_noun_and_wrong_usage_is_code_2() {
    let help = succeeds(&["--help"]);
    for noun in [
        "serve", "config", "doctor", "machine", "pin", "unpin", "default", "rollout", "secret", "explain",
        "boots", "watch", "log", "lease", "status", "image", "nbp", "lab", "version",
    ] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{noun} "))), "{noun}\n{help}");
    }
    assert_eq!(succeeds(&["version"]), format!("pristine {}\n", env!("CARGO_PKG_VERSION")));
    assert!(fails(&["pinn", "x", "y"], 2).contains("a similar subcommand exists: 'pin'"));
    fails(&["pin", "x"], 2);
    assert_eq!(
        fails(&["--api", "http://127.0.0.1:1", "--token-file", "/nowhere", "machine", "list"], 1),
        "pristine: can't read the API token /nowhere: No such file or directory (os error 2)\n  \
         help: the service makes it at its first start: start it with `pristine serve`, or name the file with --token-file or --config\n"
    );
}

#[test]
fn a_configuration_is_checked_with_line_and_column() {
    let dir = Dir::new("cli");
    let file = dir.0.join("p.toml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "[http]\nprot = 8080\n").unwrap();
    assert_eq!(
        fails(&["config", "check", name], 1),
        format!(
            "pristine: {name}:2:1: http.prot: unknown key `prot`\n  2 | prot = 8080\n    | ^^^^\n  \
             allowed: listen, port, head_time, body_time, stall_time, roots, roots_at_once, roots_per_rack\n  did you mean `port`?\n"
        )
    );
    std::fs::write(&file, "[http]\nport = 8088\n[[interface]]\nname = \"eth1\"\n").unwrap();
    assert_eq!(
        succeeds(&["config", "check", name]),
        format!("{name}: right (1 interface, 0 subnets, 0 reservations)\n")
    );
    assert!(succeeds(&["--config", name, "config", "show"]).contains("port = 8088"));
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["--config", name, "config", "show", "--json"])).unwrap();
    assert_eq!(json["http"]["port"], 8088);
    assert!(
        fails(&["config", "check", "/nowhere.toml"], 1)
            .starts_with("pristine: can't read the configuration /nowhere.toml: ")
    );
}

#[test]
fn a_service_without_links_says_how_to_name_one() {
    let dir = Dir::new("cli");
    let state = dir.0.to_str().unwrap();
    assert_eq!(
        fails(&["--config", "/dev/null", "--state-dir", state, "serve"], 1),
        "pristine: no interface to serve\n  help: pristine serve --interface <name>, or an [[interface]] in the configuration (`ip -br link` lists the names)\n"
    );
}

/// Arguments that reach the service of a test.
pub struct Cli<'a> {
    pub api: &'a TestApi,
    pub token: String,
}

impl Cli<'_> {
    fn args<'b>(&'b self, url: &'b str, args: &[&'b str]) -> Vec<&'b str> {
        let mut all = vec!["--api", url, "--token-file", self.token.as_str()];
        all.extend(args);
        all
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        succeeds(&self.args(&self.api.url(), args))
    }

    #[track_caller]
    pub fn err(&self, args: &[&str], code: i32) -> String {
        fails(&self.args(&self.api.url(), args), code)
    }
}

pub fn token_file(dir: &Path) -> String {
    let file = dir.join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn machines_are_named_pinned_and_explained() {
    let dir = Dir::new("cli");
    let api = TestApi::start();
    let cli = Cli { api: &api, token: token_file(&dir.0) };
    let mac = "52:54:00:00:00:01";
    assert_eq!(
        cli.ok(&["machine", "list"]),
        "no machine was seen yet: power one on, or name one with `pristine machine set <mac> --hostname <name>`\n"
    );
    assert_eq!(cli.ok(&["machine", "set", mac, "--hostname", "db7", "--label", "role=db"]), "db7 is set\n");
    assert_eq!(
        cli.ok(&["pin", "db7", "local"]),
        "db7 is pinned to local, from its next power-on; it was not seen yet\n"
    );
    let list = cli.ok(&["machine", "list"]);
    assert!(
        list.starts_with(
            "MAC                HOSTNAME  RACK  FIRMWARE  PIN    LAST HEALTHY   SEEN\n\
             52:54:00:00:00:01  db7       -     -         local  -             never\n"
        ),
        "{list}"
    );
    let explained = cli.ok(&["explain", "db7"]);
    assert!(explained.starts_with("db7 would get: local\n"), "{explained}");
    assert!(explained.contains("-> pin      pinned to local\n"), "{explained}");
    assert!(explained.contains("   rule     not asked: the pin goes before it\n"), "{explained}");
    assert_eq!(
        cli.ok(&["unpin", "db7"]),
        "db7 has no pin any more: it gets discover from its next power-on\n"
    );
    assert_eq!(cli.ok(&["default"]), "none\n");
    assert_eq!(
        cli.ok(&["default", "ignore"]),
        "machines without a pin that no rule picks boot ignore, from their next power-on\n"
    );
    assert_eq!(cli.ok(&["default", "--clear"]), "there is no default any more\n");
    assert_eq!(cli.ok(&["lease", "list"]), "no leases\n");
    assert_eq!(cli.ok(&["machine", "forget", "db7"]), "db7 is forgotten\n");
    assert_eq!(
        cli.err(&["machine", "show", "db7"], 1),
        "pristine: no machine `db7`\n  help: a machine is named by a MAC or by its hostname; see `pristine machine list`\n"
    );
    assert!(cli.err(&["pin", mac, "web:1"], 1).starts_with("pristine: there is no image `web:1`"));
    assert_eq!(
        cli.err(&["machine", "set", mac], 2),
        "pristine: nothing to set: name one of --hostname, --rack, --nbp, --label, --other-mac\n"
    );
    for nbp in ["../x", "ipxe-x86.efi"] {
        let said = cli.err(&["machine", "set", mac, "--nbp", nbp], 1);
        assert!(said.contains(nbp) && said.contains("pristine nbp list"), "{said}");
    }
    assert_eq!(
        cli.err(&["pin", "a\u{1b}[31m", "local"], 1).lines().next(),
        Some("pristine: no machine `a?[31m`"),
        "nobody's words drive the terminal"
    );
    assert!(cli.err(&["machine", "set", mac, "--label", "x"], 2).contains("`x` is not a label"));
}

#[test]
fn a_secret_comes_from_standard_input_or_a_file_and_is_never_shown() {
    let dir = Dir::new("cli");
    let api = TestApi::start();
    let cli = Cli { api: &api, token: token_file(&dir.0) };
    assert_eq!(cli.ok(&["secret", "list"]), "no secrets: `pristine secret set NAME` makes one\n");
    let file = dir.0.join("value");
    std::fs::write(&file, "root:hunter2\n").unwrap();
    let from_file = cli.ok(&["secret", "set", "bmc-a1", "--file", file.to_str().unwrap()]);
    assert_eq!(from_file, "secret bmc-a1 is set (13 bytes, its line end with it)\n");
    // Standard input of these tests is empty.
    assert!(cli.err(&["secret", "set", "none"], 1).contains("the value of none is empty"));
    let said = cli.err(&["secret", "set", "none", "--file", "/nowhere"], 1);
    assert!(said.starts_with("pristine: can't read /nowhere: "), "{said}");
    cli.err(&["secret", "set", "none", "value"], 2);
    let list = cli.ok(&["secret", "list"]) + &cli.ok(&["secret", "list", "--json"]);
    assert!(list.contains("bmc-a1") && list.contains("13") && !list.contains("hunter"), "{list}");
    assert_eq!(cli.ok(&["secret", "rm", "bmc-a1"]), "secret bmc-a1 is removed\n");
}

#[test]
fn every_reading_command_speaks_json() {
    let dir = Dir::new("cli");
    let api = TestApi::start();
    let cli = Cli { api: &api, token: token_file(&dir.0) };
    let mac = "52:54:00:00:00:01";
    cli.ok(&["machine", "set", mac, "--rack", "a1"]);
    for args in [
        &["machine", "list"][..],
        &["machine", "show", mac],
        &["default"],
        &["explain", mac],
        &["boots"],
        &["boots", mac],
        &["lease", "list"],
        &["status"],
        &["version"],
    ] {
        let mut all = args.to_vec();
        all.push("--json");
        let out = cli.ok(&all);
        let json: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"));
        assert!(!out.contains("token_hash"), "{args:?}: {json}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pristine"))
        .args(["config", "show"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr).as_str()), (Some(0), ""));
}
