//! Signatures of images: by the command line, next to the real `minisign`, and as the service's policy.

use crate::images::{Site, path, text};
use pristine::{
    model::{BootTarget, Mac, Verdict},
    netboot::ServerAddr,
    provisioner::{Clock, CommandError, Options, Provisioner, ScriptQuery, SystemClock, TestClock},
    store::{ImageStore, Nbps, trust::TrustFiles},
};
use serde_json::Value;
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
};
use tokio::runtime::Runtime;

const MAC: &str = "52:54:00:00:00:01";

impl Site {
    /// `pristine WORDS` on this site's state folder.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let state = self.at("state");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
        command.args(["--state-dir", path(&state)]).args(words).stdin(Stdio::null());
        command.output().unwrap()
    }

    pub(crate) fn said(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(!out.status.success(), "{words:?} should fail, and says {}", text(&out.stdout));
        text(&out.stderr) + &text(&out.stdout)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        path(&self.at(name)).to_owned()
    }

    /// A key NAME.key without password; its id.
    pub(crate) fn key(&self, name: &str) -> String {
        let out = self.said(&[
            "key",
            "generate",
            "--no-password",
            "--out",
            &self.file(&format!("{name}.key")),
            "--json",
        ]);
        let value: Value = serde_json::from_str(&out).unwrap();
        value["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn trusted_key(&self, name: &str) -> String {
        let id = self.key(name);
        self.said(&["key", "trust", &self.file(&format!("{name}.pub"))]);
        id
    }

    pub(crate) fn sign(&self, image: &str, key: &str) {
        self.said(&["image", "sign", image, "--key", &self.file(&format!("{key}.key"))]);
    }

    fn vouched(&self, image: &str) -> bool {
        self.run(&["image", "verify", "--signature", image]).status.success()
    }

    pub(crate) fn signature(&self, image: &Value, id: &str) -> PathBuf {
        self.store_dir()
            .join("signatures")
            .join(image["digest"].as_str().unwrap())
            .join(format!("{id}.minisig"))
    }

    /// A manifest as a file.
    fn manifest(&self, image: &str) -> String {
        fs::write(self.at("manifest"), self.said(&["image", "show", image, "--manifest"])).unwrap();
        self.file("manifest")
    }

    pub(crate) fn trust_json(&self) -> PathBuf {
        self.at("state").join("trust.json")
    }
}

fn minisign(words: &[&str]) -> Output {
    Command::new("minisign").args(words).stdin(Stdio::null()).output().unwrap()
}

fn minisign_says(words: &[&str]) -> String {
    let out = minisign(words);
    assert!(out.status.success(), "minisign {words:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn minisign_verifies_what_we_signed() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    fs::write(site.at("password"), "correct horse\n").unwrap();
    let (key, password) = (site.file("locked.key"), site.file("password"));
    site.said(&["key", "generate", "--out", &key, "--password-file", &password, "--comment", "of the tests"]);
    site.said(&["image", "sign", "web:1", "--key", &key, "--password-file", &password]);
    let plain = site.key("plain");
    site.sign("web:1", "plain");

    let manifest = site.manifest("web:1");
    let digest = web["digest"].as_str().unwrap();
    for public in ["locked.pub", "plain.pub"] {
        let id = fs::read_to_string(site.at(public)).unwrap();
        let id = id.lines().next().unwrap().rsplit(' ').next().unwrap();
        let signature = site.signature(&web, id);
        let said =
            minisign_says(&["-V", "-H", "-p", &site.file(public), "-m", &manifest, "-x", path(&signature)]);
        assert!(said.contains(&format!("image:{digest}\ttag:web:1\thashed")), "{said}");
    }
    // And it reads our secret keys.
    fs::write(site.at("note"), "hello").unwrap();
    minisign_says(&["-S", "-W", "-s", &site.file("plain.key"), "-m", &site.file("note")]);
    minisign_says(&["-V", "-p", &site.file("plain.pub"), "-m", &site.file("note")]);

    // Both signatures go with the image.
    assert!(site.signature(&web, &plain).exists());
    site.said(&["image", "rm", "web:1"]);
    assert!(!site.signature(&web, &plain).parent().unwrap().exists());
}

#[test]
fn we_verify_what_minisign_signed() {
    let site = Site::new();
    site.imported("web", &[]);
    let manifest = site.manifest("web:1");
    let (public, secret, signature) = (site.file("m.pub"), site.file("m.key"), site.file("manifest.minisig"));
    minisign_says(&["-G", "-W", "-p", &public, "-s", &secret]);
    let attach = ["image", "sign", "web:1", "--signature", &signature];

    // Signed on a host that knows nothing of Pristine, by the tool alone.
    minisign_says(&["-S", "-W", "-s", &secret, "-m", &manifest]);
    let unknown = site.refused(&attach);
    assert!(unknown.contains("signed by no trusted key") && unknown.contains("key trust"), "{unknown}");
    site.said(&["key", "trust", &public]);
    site.said(&attach);
    assert!(site.vouched("web:1"));

    minisign_says(&["-S", "-W", "-l", "-s", &secret, "-m", &manifest]);
    let legacy = site.refused(&attach);
    assert!(legacy.contains("old form"), "{legacy}");
    // A comment that names another image, by a trusted key: still not for this one.
    minisign_says(&["-S", "-W", "-s", &secret, "-m", &manifest, "-t", "timestamp:1\ttag:db:1"]);
    let other = site.refused(&attach);
    assert!(other.contains("names another image"), "{other}");
    fs::write(site.at("manifest"), "{}").unwrap();
    minisign_says(&["-S", "-W", "-s", &secret, "-m", &manifest]);
    assert!(site.refused(&attach).contains("does not fit"));
    assert!(site.vouched("web:1"), "what was refused changed nothing");
}

#[test]
fn a_secret_key_of_minisign_with_its_password_signs() {
    let site = Site::new();
    site.imported("web", &[]);
    let (public, secret) = (site.file("m.pub"), site.file("m.key"));
    let generate = format!("printf 'pw\\npw\\n' | minisign -G -p {public} -s {secret}");
    assert!(Command::new("sh").args(["-c", &generate]).output().unwrap().status.success());
    for (name, password) in [("right", "pw\n"), ("wrong", "wp\n")] {
        fs::write(site.at(name), password).unwrap();
    }
    let sign = |file: &str| {
        site.run(&["image", "sign", "web:1", "--key", &secret, "--password-file", &site.file(file)])
    };
    assert!(text(&sign("wrong").stderr).contains("password is wrong"));
    let signed = sign("right");
    assert!(text(&signed.stdout).contains("not trusted here"), "{}", text(&signed.stderr));
    site.said(&["key", "trust", &public, "--name", "of the tool"]);
    assert!(site.vouched("web:1"));
}

#[test]
fn secret_keys_are_kept_from_others_and_never_overwritten() {
    let site = Site::new();
    site.imported("web", &[]);
    site.key("a");
    let (key, bytes) = (site.at("a.key"), fs::read(site.at("a.key")).unwrap());
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        site.refused(&["key", "generate", "--no-password", "--out", path(&key)]).contains("is there already")
    );
    assert_eq!(fs::read(&key).unwrap(), bytes);
    let nobody = site.refused(&["key", "generate", "--out", &site.file("b.key")]);
    assert!(nobody.contains("--password-file") && !site.at("b.key").exists(), "{nobody}");

    let sign = |file: &str| site.refused(&["image", "sign", "web:1", "--key", &site.file(file)]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(sign("a.key").contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(site.at("a.pub"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(sign("a.pub").contains("it is a public key"));
    let secret = String::from_utf8(bytes).unwrap();
    let said = site.refused(&["key", "trust", path(&key)]);
    assert!(said.contains("SECRET") && !said.contains(secret.lines().nth(1).unwrap()), "{said}");
    assert_eq!(site.refused(&["key", "trust", "nonsense"]).lines().count(), 1);
    assert!(!site.trust_json().exists(), "what was refused changed nothing");
}

#[test]
fn a_changed_signature_or_manifest_vouches_for_nothing() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    let id = site.trusted_key("a");
    site.sign("web:1", "a");
    let file = site.signature(&web, &id);
    let good = fs::read_to_string(&file).unwrap();
    let put = |text: &str| {
        fs::remove_file(&file).unwrap();
        fs::write(&file, text).unwrap();
    };
    let comment = good.lines().nth(2).unwrap().to_owned();
    for changed in [
        good.replace("timestamp:", "timestamp:9"),
        good.replace(&comment, "trusted comment: "),
        good.lines().take(3).collect::<Vec<_>>().join("\n"),
        String::new(),
        good.repeat(2),
        "x".repeat(5000),
    ] {
        put(&changed);
        assert!(!site.vouched("web:1"), "{changed}");
    }
    put(&good);
    assert!(site.vouched("web:1"));
}

#[test]
fn what_was_revoked_stays_revoked_and_an_old_trust_document_is_refused() {
    let site = Site::new();
    site.imported("web", &[]);
    let id = site.trusted_key("a");
    site.sign("web:1", "a");
    let old = fs::read(site.trust_json()).unwrap();
    site.said(&["key", "revoke", &id, "--reason", "laptop stolen"]);
    let verdict = site.refused(&["image", "verify", "--signature"]);
    assert!(verdict.contains("revoked") && verdict.contains("laptop stolen"), "{verdict}");
    let again = site.refused(&["key", "trust", &site.file("a.pub")]);
    assert!(again.contains("revoked") && again.contains("laptop stolen"), "{again}");

    // A restored backup, a stale copy of configuration management.
    fs::write(site.trust_json(), &old).unwrap();
    let listed = site.said(&["key", "list"]);
    assert!(
        listed.contains("WARNING") && listed.contains("old copy") && listed.contains("revoked"),
        "{listed}"
    );
    assert!(!site.vouched("web:1"));
    let mixed = site.refused(&["key", "revoke", &id]);
    assert!(mixed.contains("trust.accepted.json"), "{mixed}");
    // The same version with other words, and a newer one that forgets the revocation.
    let forked = text(&old).replace("\"version\": 1", "\"version\": 2");
    fs::write(site.trust_json(), &forked).unwrap();
    assert!(site.said(&["key", "list"]).contains("says something else"));
    fs::write(site.trust_json(), forked.replace("\"version\": 2", "\"version\": 9")).unwrap();
    assert!(site.said(&["key", "list"]).contains("does not say so"));
    fs::write(site.trust_json(), "{").unwrap();
    assert!(site.said(&["key", "list"]).contains("can't be read"));
    fs::remove_file(site.trust_json()).unwrap();
    assert!(site.said(&["key", "list"]).contains("is gone"));
    assert!(!site.vouched("web:1"));

    // As the refusal says.
    fs::copy(site.at("state").join("trust.accepted.json"), site.trust_json()).unwrap();
    site.trusted_key("b");
    site.sign("web:1", "b");
    assert!(site.vouched("web:1"));
}

/// The service's provisioner with `require_signature`, on the state folder that the commands use.
struct Service {
    provisioner: Provisioner,
    runtime: Runtime,
}

impl Service {
    fn start(site: &Site) -> Service {
        Service::by(site, Arc::new(SystemClock::new()))
    }

    fn by(site: &Site, clock: Arc<dyn Clock>) -> Service {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = site.at("state");
        let options = Options { require_signature: true, ..Options::default() };
        let (images, nbps) =
            (ImageStore::open(&site.store_dir()).unwrap(), Nbps::load(&state.join("nbp")).unwrap());
        let provisioner = Provisioner::open(options, &state, images, nbps, clock).unwrap();
        Service { provisioner, runtime }
    }

    fn pin(&self, image: &str) -> Result<(), CommandError> {
        self.runtime.block_on(self.provisioner.pin(MAC, image)).map(drop)
    }

    fn default(&self, image: &str) -> Result<(), CommandError> {
        self.runtime.block_on(self.provisioner.set_default(Some(image))).map(drop)
    }

    /// The script that the machine gets, and how its boot stands after that.
    fn script(&self) -> (String, Verdict) {
        let query = ScriptQuery { mac: MAC.into(), platform: "pcbios".into(), ..ScriptQuery::default() };
        let server = ServerAddr { ip: Ipv4Addr::new(198, 18, 0, 1), http_port: 8080 };
        let script = self
            .runtime
            .block_on(self.provisioner.script(server, Ipv4Addr::new(198, 18, 0, 9), query))
            .unwrap();
        let mac: Mac = MAC.parse().unwrap();
        (script, self.provisioner.attempts(Some(mac), 1)[0].verdict.clone())
    }

    fn refusal(&self) -> String {
        let (script, verdict) = self.script();
        assert!(!script.contains("\nkernel "), "{script}");
        let Verdict::Failed { reason } = verdict else { panic!("{verdict:?}: {script}") };
        let explained = self.provisioner.explain(MAC).unwrap();
        assert_eq!(explained.refused.as_deref(), Some(reason.as_str()));
        reason
    }

    fn boots(&self) {
        let (script, verdict) = self.script();
        assert!(script.contains("\nkernel ") && verdict == Verdict::Running, "{verdict:?}: {script}");
    }
}

#[test]
fn the_policy_refuses_what_no_trusted_key_signed_and_a_revocation_counts_at_once() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    site.imported("good", &[("--label", "other=1")]);
    let (a, b) = (site.trusted_key("a"), site.trusted_key("b"));
    site.sign("good:1", "b");
    let service = Service::start(&site);

    let unsigned = service.pin("web:1").unwrap_err().to_string();
    assert!(unsigned.contains("image web:1") && unsigned.contains("pristine image sign"), "{unsigned}");
    assert_eq!(service.default("web:1").unwrap_err().to_string(), unsigned);
    assert_eq!(service.provisioner.default_target(), None);
    service.default("good:1").unwrap();

    site.sign("web:1", "a");
    service.pin("web:1").unwrap();
    service.boots();
    let old = fs::read(site.trust_json()).unwrap();
    site.said(&["key", "revoke", &a, "--reason", "laptop stolen"]);
    let revoked = service.refusal();
    assert!(revoked.contains("web:1") && revoked.contains("laptop stolen"), "{revoked}");
    // The pin stays what it was: no other image takes its place.
    let pin = service.provisioner.machine(MAC).unwrap().pin;
    assert_eq!(pin, Some(BootTarget::Image { digest: web["digest"].as_str().unwrap().parse().unwrap() }));

    fs::write(site.trust_json(), &old).unwrap();
    assert_eq!(service.refusal(), revoked, "an old trust document brings the key back");
    drop(service);
    let service = Service::start(&site);
    assert_eq!(service.refusal(), revoked, "an old trust document brings the key back after a restart");

    site.sign("web:1", "b");
    service.boots();
    fs::remove_file(site.signature(&web, &b)).unwrap();
    assert_eq!(service.refusal(), revoked);
    // A document that another host made (configuration management): newer, and in force over restarts.
    let files = TrustFiles::at(&site.at("state"));
    fs::copy(site.at("state").join("trust.accepted.json"), site.trust_json()).unwrap();
    let newer = fs::read_to_string(site.trust_json()).unwrap().replace("\"version\": 3", "\"version\": 12");
    fs::write(site.trust_json(), newer).unwrap();
    assert_eq!(service.refusal(), revoked);
    fs::remove_file(site.trust_json()).unwrap();
    assert_eq!(files.read().unwrap().trust.version, 12);
}

#[test]
fn a_key_vouches_until_its_end() {
    let site = Site::new();
    site.imported("web", &[]);
    site.key("a");
    let public = site.file("a.pub");
    assert!(site.refused(&["key", "trust", &public, "--until", "2020-01-01"]).contains("in the past"));
    site.said(&["key", "trust", &public, "--until", "2100-01-01"]);
    site.sign("web:1", "a");
    assert!(site.vouched("web:1"));
    let ended = fs::read_to_string(site.trust_json()).unwrap().replace("4102444800000", "1577836800000");
    fs::write(site.trust_json(), ended.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let said = site.refused(&["image", "verify", "--signature"]);
    assert!(said.contains("which ended on 2020-01-01"), "{said}");
}

/// 2026-01-01, and a day, in milliseconds.
const NEW_YEAR: i64 = 1_767_225_600_000;
const DAY: i64 = 24 * 3_600_000;

#[test]
fn a_clock_that_is_set_back_revives_no_key() {
    let site = Site::new();
    site.imported("web", &[]);
    site.trusted_key("a");
    site.sign("web:1", "a");
    let files = TrustFiles::at(&site.at("state"));
    let ends = |end: i64| {
        files.change(|trust| {
            trust.keys[0].until = Some(end);
            Ok(())
        })
    };
    ends(NEW_YEAR + DAY).unwrap();
    let clock = Arc::new(TestClock::at(NEW_YEAR));
    let service = Service::by(&site, clock.clone());
    service.default("web:1").unwrap();
    service.boots();
    clock.advance(DAY);
    assert!(service.refusal().contains("which ended on 2026-01-02"), "{}", service.refusal());
    drop(service);
    for back in [NEW_YEAR, NEW_YEAR - 3650 * DAY, 0] {
        drop(Service::by(&site, Arc::new(TestClock::at(back))));
        let service = Service::by(&site, Arc::new(TestClock::at(back)));
        let why = service.refusal();
        assert!(why.contains("which ended on 2026-01-02") && why.contains("trust.clock"), "{why}");
    }
    // Nobody knows which keys ended: none vouches.
    let kept = fs::read(files.clock()).unwrap();
    for cut in 0..kept.len() - 1 {
        fs::write(files.clock(), &kept[..cut]).unwrap();
        let service = Service::by(&site, Arc::new(TestClock::at(NEW_YEAR)));
        assert!(service.refusal().contains("trust.clock"), "cut to {cut}: {}", service.refusal());
    }
    fs::write(files.clock(), &kept).unwrap();
    // An end that is later is another one.
    ends(NEW_YEAR + 9 * DAY).unwrap();
    let service = Service::by(&site, Arc::new(TestClock::at(NEW_YEAR)));
    service.boots();
    ends(NEW_YEAR + DAY - 1).unwrap();
    assert!(service.refusal().contains("which ended"), "{}", service.refusal());
    // As the refusal says, where it was the clock that was wrong.
    fs::remove_file(files.clock()).unwrap();
    service.boots();
}

#[test]
fn a_key_that_ends_while_nothing_boots_has_ended() {
    let site = Site::new();
    site.imported("web", &[]);
    site.trusted_key("a");
    site.sign("web:1", "a");
    let files = TrustFiles::at(&site.at("state"));
    files
        .change(|trust| {
            trust.keys[0].until = Some(NEW_YEAR);
            Ok(())
        })
        .unwrap();
    let service = Service::by(&site, Arc::new(TestClock::at(NEW_YEAR - DAY)));
    service.default("web:1").unwrap();
    drop(service);
    let service = Service::by(&site, Arc::new(TestClock::at(NEW_YEAR + DAY)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let ticker = service.runtime.spawn(service.provisioner.clone().run_ticker(stopped));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !files.clock().exists() {
        assert!(std::time::Instant::now() < until, "the end is never written down");
        std::thread::yield_now();
    }
    drop(stop);
    service.runtime.block_on(ticker).unwrap();
    drop(service);
    let service = Service::by(&site, Arc::new(TestClock::at(NEW_YEAR - DAY)));
    assert!(service.refusal().contains("which ended on 2026-01-01"), "{}", service.refusal());
}

/// Runs a command again and again, killed at the first, second, … of these system calls, until it comes to
/// its end; `check` looks after each one. How many kills there were.
fn killed_at_each(site: &Site, words: &[&str], call: &str, check: &dyn Fn(&str, bool)) -> u32 {
    for nth in 1..200 {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let status = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
            .arg(env!("CARGO_BIN_EXE_pristine"))
            .args(["--state-dir", path(&site.at("state"))])
            .args(words)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        let at = format!("{words:?} killed at {call} {nth}");
        check(&at, status.success());
        if status.success() {
            return nth - 1;
        }
        assert!(status.signal() == Some(9) || status.code() == Some(137), "{at}: {status}");
    }
    panic!("{words:?} never ends");
}

#[test]
fn killed_at_any_step_trust_and_signatures_are_as_before_or_as_after() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    let a = site.trusted_key("a");
    let (files, signature, mut kills) = (TrustFiles::at(&site.at("state")), site.signature(&web, &a), 0);
    for call in ["flock", "write", "fchmod", "fsync", "rename", "mkdir"] {
        let words = ["image", "sign", "web:1", "--key", &site.file("a.key")];
        kills += killed_at_each(&site, &words, call, &|at, done| {
            // Opening the store clears what was left.
            let store = ImageStore::open(&site.store_dir()).unwrap();
            let found = store.signature_files(store.resolve("web:1").unwrap().digest).unwrap();
            assert!(found.iter().all(|s| s.signature.is_ok()) && found.len() <= 1, "{at}");
            assert!(!done || signature.exists(), "{at}");
        });
        assert!(site.vouched("web:1"));
        let key = site.trusted_key(call);
        let before = files.read().unwrap().trust.version;
        kills += killed_at_each(&site, &["key", "revoke", &key, "--reason", "test"], call, &|at, done| {
            let found = files.read().unwrap();
            assert_eq!(found.refused, None, "{at}");
            let revoked = found.trust.get(key.parse().unwrap()).unwrap().revoked.is_some();
            assert_eq!(found.trust.version, before + u64::from(revoked), "{at}");
            assert!(!done || revoked, "{at}");
        });
    }
    assert!(kills > 12, "{kills} kills");
}
