//! Many things at once, through the command line and the real API: rows of machines, and a site as a file.

use super::{
    api::{Dir, TestApi},
    cli::{Cli, token_file},
    store::publish,
};
use pristine::{fleet::ApplyOrder, model::wire::Changes};
use std::{fs, path::PathBuf};

const A: &str = "52:54:00:00:00:01";
const B: &str = "52:54:00:00:00:02";

struct Desk {
    dir: Dir,
    api: TestApi,
    token: String,
}

impl Desk {
    fn new() -> Desk {
        let dir = Dir::new("declared");
        let token = token_file(&dir.0);
        Desk { dir, api: TestApi::start(), token }
    }

    fn cli(&self) -> Cli<'_> {
        Cli { api: &self.api, token: self.token.clone() }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.dir.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn records(&self) -> u64 {
        self.api.provisioner.revision()
    }
}

#[test]
fn machines_come_from_a_spreadsheet_all_or_none_and_go_back_as_they_were() {
    let desk = Desk::new();
    let cli = desk.cli();
    let csv = format!("mac,hostname,rack,label.role,pin\n{A},db1,a1,db,local\n{B},web1,a2,,\n");
    let file = desk.file("machines.csv", &csv);
    let said = cli.ok(&["machine", "import", &file, "--dry-run"]);
    assert!(
        said.contains("machine db1 (52:54:00:00:00:01)\n") && said.contains("    rack        - -> a1\n"),
        "{said}"
    );
    assert!(said.ends_with("2 changes to make; nothing was changed (planned at revision 0)\n"), "{said}");
    assert_eq!(desk.records(), 0);
    assert!(cli.ok(&["machine", "import", &file, "-m", "hall 3"]).ends_with("2 changes made (revision 2)\n"));
    assert!(cli.ok(&["machine", "import", &file]).starts_with("nothing to change"));
    assert!(cli.ok(&["log", "--machine", "db1"]).contains("    why         hall 3\n"));

    let swapped = format!("mac,hostname\n{A},web1\n{B},db1\n");
    cli.ok(&["machine", "import", &desk.file("swap.csv", &swapped)]);
    assert!(cli.ok(&["machine", "show", "web1"]).contains(A), "names may be swapped, and the rest stays");
    assert!(cli.ok(&["machine", "show", "web1"]).contains("role=db"));

    let exported = cli.ok(&["machine", "export"]);
    let file = desk.file("exported.csv", &exported);
    assert!(cli.ok(&["machine", "import", &file]).starts_with("nothing to change"), "{exported}");
    let json = desk.file("exported.json", &cli.ok(&["machine", "export", "--json"]));
    assert!(cli.ok(&["machine", "import", &json]).starts_with("nothing to change"));
    assert_eq!(cli.ok(&["machine", "export", "--select", "rack=a2"]).lines().count(), 2);

    let before = desk.records();
    for (text, says) in [
        (format!("mac,hostname\n{A},x1\n\n{B},X1\n"), ":4: hostname: hostname X1 is already machine"),
        (
            format!("mac,rack\n{A},a1\n52-54-00-00-00-01,a2\n"),
            ":3: mac: machine 52:54:00:00:00:01 is there twice",
        ),
        (format!("mac,pin\n{A},web:9\n"), ":2: pin: there is no image `web:9`"),
        (format!("mac,nbp\n{A},x.efi\n"), ":2: nbp: there is no boot program `x.efi`"),
        (format!("mac,hostname\n{A},new\nff:ff:ff:ff:ff:ff,x\n"), ":3: mac: ff:ff:ff:ff:ff:ff can't be"),
        (format!("mac,rak\n{A},a1\n"), ":1: unknown column `rak`; did you mean rack?"),
        (
            "[\n{\"mac\": \"52:54:00:00:00:01\", \"hostname\": \"-\"}]".to_owned(),
            ":2: hostname: `-` can't be",
        ),
    ] {
        let said = cli.err(&["machine", "import", &desk.file("bad", &text)], 1);
        assert!(said.contains(says) && said.contains("nothing was changed"), "{says}: {said}");
    }
    assert_eq!(desk.records(), before, "all or none");
}

/// A site with everything in it.
fn fleet(default: &str) -> String {
    format!(
        "default = \"{default}\"\n[images]\nbase = \"web:1\"\n[[rule]]\nname = \"dbs\"\nselect = \"label.role = db\"\ntarget = \"web:2\"\n\
         [[machine]]\nmac = \"{A}\"\nhostname = \"db1\"\nlabels = {{ role = \"db\" }}\n\
         [[machine]]\nmac = \"{B}\"\nrack = \"a1\"\npin = \"local\"\n"
    )
}

#[test]
fn a_file_makes_a_site_twice_changes_nothing_and_what_is_exported_is_a_no_op() {
    let desk = Desk::new();
    let cli = desk.cli();
    let store = desk.api.provisioner.images();
    let [one, two] = ["web:1", "web:2"].map(|tag| publish(store, tag, tag.as_bytes()));
    let file = desk.file("fleet.toml", &fleet("base"));
    let plan = cli.ok(&["apply", "--dry-run", &file]);
    assert!(
        plan.contains("+ rule dbs\n    selector  - -> label.role = db\n    target    - -> web:2\n"),
        "{plan}"
    );
    assert!(plan.contains("~ the default\n    target  - -> web:1\n"), "{plan}");
    assert!(
        plan.contains("    boots       discover -> web:2\n"),
        "what a machine then boots is said: {plan}"
    );
    assert!(plan.ends_with("4 changes to make; nothing was changed (planned at revision 0)\n"), "{plan}");
    let plan: Changes = serde_json::from_str(&cli.ok(&["apply", "--dry-run", "--json", &file])).unwrap();
    assert_eq!((plan.revision, plan.applied, plan.changes.len()), (0, false, 4));

    assert!(cli.ok(&["apply", &file, "-m", "first"]).ends_with("4 changes made (revision 4)\n"));
    assert!(cli.ok(&["apply", &file]).starts_with("nothing to change"));
    assert!(cli.ok(&["explain", "db1"]).starts_with("db1 would get: web:2"));

    let exported = cli.ok(&["export"]);
    assert!(exported.contains(&format!("\"web:1\" = \"{one}\"\n\"web:2\" = \"{two}\"\n")), "{exported}");
    assert_eq!(exported, cli.ok(&["export"]), "always the same");
    let written = desk.file("exported.toml", &exported);
    assert!(cli.ok(&["apply", "--prune", &written]).starts_with("nothing to change"));

    // Others set things: what the file doesn't name is left alone, what it names is its own.
    cli.ok(&["rule", "set", "other", "--select", "rack=z", "ignore"]);
    cli.ok(&["machine", "set", "db1", "--rack", "b7"]);
    cli.ok(&["machine", "set", "52:54:00:00:00:09", "--hostname", "stranger"]);
    let plan = cli.ok(&["apply", "--dry-run", &file]);
    assert!(plan.contains("    rack  b7 -> -\n") && plan.contains("1 change to make"), "{plan}");
    cli.ok(&["apply", "--prune", &written]);
    assert_eq!(cli.ok(&["export"]), exported, "with --prune the file is all there is");
    assert!(cli.ok(&["machine", "list"]).contains("52:54:00:00:00:09"), "which stays on record");
    assert!(cli.ok(&["log", "--verify"]).starts_with("the audit log is whole"));
}

#[test]
fn a_plan_is_carried_out_as_it_was_shown_or_not_at_all() {
    let desk = Desk::new();
    let cli = desk.cli();
    let file = desk.file("fleet.toml", "default = \"local\"\n");
    assert!(cli.ok(&["apply", "--dry-run", &file]).contains("planned at revision 0"));
    cli.ok(&["pin", A, "ignore"]);
    let said = cli.err(&["apply", "--at", "0", &file], 1);
    assert!(said.contains("something was changed since revision 0 (it is 1 now)"), "{said}");
    cli.ok(&["apply", "--at", "1", &file]);
    // Over the API, too: a plan, a change by somebody else, and the plan's revision.
    let document = toml::from_str("default = \"ignore\"").unwrap();
    let mut order = ApplyOrder { document, prune: false, dry_run: true, revision: None };
    let client = desk.api.client();
    let plan = client.apply(&order).unwrap();
    cli.ok(&["unpin", A]);
    (order.dry_run, order.revision) = (false, Some(plan.revision));
    let refused = client.apply(&order).unwrap_err().to_string();
    assert!(refused.contains("run it again"), "{refused}");
    assert_eq!(cli.ok(&["default"]), "local\n");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place_and_changes_nothing() {
    let desk = Desk::new();
    let cli = desk.cli();
    publish(desk.api.provisioner.images(), "web:1", b"web");
    cli.ok(&["machine", "set", "52:54:00:00:00:09", "--hostname", "taken"]);
    let before = desk.records();
    for (text, says) in [
        ("defualt = \"local\"\n", &[":1:1: defualt: unknown key `defualt`", "did you mean `default`?"][..]),
        ("[[machine]]\nmac = \"52:54\"\n", &[":2:7: ", "`52:54` is not a MAC address"]),
        ("[[machine]]\nhostname = \"x\"\n", &["the key `mac` is missing"]),
        (
            "default = \"wbe:1\"\n",
            &[":1:11: default: there is no image `wbe:1`; did you mean web:1?", "1 | default = \"wbe:1\""],
        ),
        ("[images]\nw = \"wbe:1\"\n", &[":2:5: images.w: there is no image `wbe:1`"]),
        (
            "[[rule]]\nname = \"r\"\nselect = \"rack=a1 adn arch=x86_64\"\ntarget = \"local\"\n",
            &[
                ":3:19: rule[0].select: ",
                "3 | select = \"rack=a1 adn arch=x86_64\"\n    |                   ^",
            ],
        ),
        (
            "[[machine]]\nmac = \"52:54:00:00:00:01\"\n[[machine]]\nmac = \"52:54:00:00:00:02\"\nhostname = \"Taken\"\n",
            &[":5:12: machine[1].hostname: hostname Taken is already machine 52:54:00:00:00:09"],
        ),
        (
            "[[machine]]\nmac = \"52:54:00:00:00:01\"\nlabels = { \"a b\" = \"c\" }\n",
            &[":3:", "`a b` can't be a label"],
        ),
        ("[[machine]\n", &[":1:"]),
    ] {
        let said = cli.err(&["apply", &desk.file("bad.toml", text)], 1);
        for part in says {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert_eq!(desk.records(), before);
    assert!(cli.err(&["apply", "/nowhere.toml"], 1).contains("can't read /nowhere.toml"));
}
