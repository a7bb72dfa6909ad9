//! The operators' API: the real router and listener, on a port of its own, with a real provisioner in
//! a temporary folder.

use pristine::{
    api::{self, Api, Others, ROUTES, Token},
    client::{Client, ClientError},
    model::{
        BootTarget, Rule, Secret, Stage,
        wire::{ErrorBody, StartRollout},
    },
    netboot::ServerAddr,
    provisioner::{MachinePatch, Options, Provisioner, ScriptQuery, SystemClock},
    store::{ImageStore, Nbps},
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const MAC: &str = "52:54:00:00:00:01";

/// A temporary folder, removed at the end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(what: &str) -> Dir {
        Dir::below(&std::env::temp_dir(), what)
    }

    /// For what is written too often for a disk.
    pub fn in_memory(what: &str) -> Dir {
        Dir::below(std::path::Path::new("/dev/shm"), what)
    }

    fn below(folder: &std::path::Path, what: &str) -> Dir {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).unwrap();
        let dir = folder.join(format!("pristine-{what}-{:016x}", u64::from_ne_bytes(random)));
        std::fs::create_dir(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An API that runs until it is dropped.
pub struct TestApi {
    addr: SocketAddr,
    pub provisioner: Provisioner,
    stop: tokio::sync::watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
    _dir: Dir,
}

impl TestApi {
    pub fn start() -> TestApi {
        let dir = Dir::new("api");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (addr, provisioner) = runtime.block_on(async {
            let images = ImageStore::open(&dir.0.join("store")).unwrap();
            let nbps = Nbps::load(&dir.0.join("nbp")).unwrap();
            let clock = Arc::new(SystemClock::new());
            let provisioner =
                Provisioner::open(Options::default(), &dir.0, images.clone(), nbps, clock).unwrap();
            let others = Arc::new(|| Others {
                counters: BTreeMap::from([("dhcp".to_owned(), serde_json::json!([]))]),
                alarms: Vec::new(),
            });
            let api = Api::new(provisioner.clone(), images, Token::of(TOKEN), others, stopped.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::spawn(api::run(listener, api, api::Settings::default(), stopped));
            (addr, provisioner)
        });
        TestApi { addr, provisioner, stop, runtime: Some(runtime), _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn client(&self) -> Client {
        Client::with_token(&self.url(), TOKEN).unwrap()
    }

    /// Sends these bytes, gives back status and body.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // A refusal may come, and the connection close, before all is written.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
        (status, body)
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let auth = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

impl Drop for TestApi {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

fn refused(error: ClientError) -> (u16, ErrorBody) {
    match error {
        ClientError::Refused { status, body } => (status, *body),
        other => panic!("{other}"),
    }
}

#[test]
fn a_machine_is_named_pinned_explained_and_forgotten() {
    let api = TestApi::start();
    let client = api.client();
    assert!(client.machines(None).unwrap().is_empty());

    let patch: MachinePatch = serde_json::from_value(
        serde_json::json!({"hostname": "db7", "rack": "a1", "labels": {"role": "db"}}),
    )
    .unwrap();
    assert_eq!(client.set_machine(MAC, &patch).unwrap().hostname.as_deref(), Some("db7"));
    assert_eq!(client.machine("db7").unwrap().mac.to_string(), MAC);
    assert_eq!(client.machine("5254.0000.0001").unwrap().labels["role"], "db");

    assert_eq!(client.pin("db7", "local").unwrap().target, BootTarget::Local);
    let e = client.explain("db7").unwrap();
    assert_eq!((e.target, e.rule), (BootTarget::Local, Rule::Pin));
    let e = client.unpin("db7").unwrap();
    assert_eq!((e.target, e.rule), (BootTarget::Discover, Rule::Unknown));
    assert_eq!(client.set_default("ignore").unwrap().target, Some(BootTarget::Ignore));
    assert_eq!(client.explain("db7").unwrap().rule, Rule::Default);
    client.clear_default().unwrap();
    assert_eq!(client.default_target().unwrap().target, None);

    let rule = client.set_rule("dbs", "rack=a1 and label.role=db", "local").unwrap();
    assert_eq!((rule.machines, rule.rule.name.as_str()), (1, "dbs"));
    assert_eq!(client.explain("db7").unwrap().rule, Rule::Selector);
    assert_eq!(client.machines(Some("label.role=db")).unwrap().len(), 1);
    assert_eq!(client.machines(Some(r#"label.role="a+b c""#)).unwrap().len(), 0);
    let (status, body) = refused(client.set_rule("x", "rak=a1", "local").unwrap_err());
    assert_eq!(status, 400);
    assert!(body.error.contains("column 1") && body.error.contains("did you mean rack?"), "{}", body.error);
    let (status, body) = refused(client.remove_rule("dbz").unwrap_err());
    assert_eq!((status, body.nearest), (404, vec!["dbs".to_owned()]));
    client.remove_rule("dbs").unwrap();
    assert!(client.rules().unwrap().is_empty());

    let none = client.rollout("web-1").unwrap_err();
    assert_eq!(refused(none).0, 404);
    let order = StartRollout { selector: "all".into(), to: "web:1".into(), ..StartRollout::default() };
    let (status, body) = refused(client.start_rollout(&order).unwrap_err());
    assert_eq!(status, 404, "{body:?}");

    client.forget("db7").unwrap();
    let (status, body) = refused(client.machine("db7").unwrap_err());
    assert_eq!((status, body.error.as_str()), (404, "no machine `db7`"));
}

#[test]
fn a_secret_goes_in_and_never_comes_out() {
    let api = TestApi::start();
    let client = api.client();
    let value = Secret::new(b"root:hunter2\xff".to_vec());
    assert_eq!(client.set_secret("bmc-a1", &value).unwrap().bytes, 13);
    let opened = api.runtime.as_ref().unwrap().block_on(api.provisioner.secret("bmc-a1"));
    assert_eq!(opened.unwrap(), value, "byte for byte");
    for (method, path) in [("GET", "/api/v1/secrets"), ("GET", "/api/v1/secrets/bmc-a1")] {
        let (_, text) = api.ask(method, path, Some(TOKEN), "");
        assert!(!text.contains("hunter"), "{text}");
    }
    let (status, body) = refused(client.set_secret("s", &Secret::new(vec![b'x'; 40_000])).unwrap_err());
    assert_eq!(status, 400, "{body:?}");
    assert!(body.error.contains("at most 32768"), "{body:?}");
    let (status, body) = refused(client.remove_secret("bmc-a2").unwrap_err());
    assert_eq!((status, body.nearest), (404, vec!["bmc-a1".to_owned()]));
    client.remove_secret("bmc-a1").unwrap();
    assert!(client.secrets().unwrap().is_empty());
}

#[test]
fn a_wrong_name_gets_the_nearest_right_ones() {
    let api = TestApi::start();
    let client = api.client();
    let patch = MachinePatch { hostname: Some(Some("web-7".into())), ..MachinePatch::default() };
    client.set_machine(MAC, &patch).unwrap();
    let (status, body) = refused(client.machine("wbe-7").unwrap_err());
    assert_eq!(status, 404);
    assert_eq!(body.nearest, ["web-7"]);
    let (status, body) = refused(client.pin(MAC, "web:1").unwrap_err());
    assert_eq!(status, 404);
    assert!(body.error.contains("no image `web:1`"), "{body:?}");
    let (status, _) = refused(client.image("web:1").unwrap_err());
    assert_eq!(status, 404);
    let other = MachinePatch { hostname: Some(Some("web-7".into())), ..MachinePatch::default() };
    assert_eq!(refused(client.set_machine("52:54:00:00:00:02", &other).unwrap_err()).0, 409);
}

#[test]
fn every_route_answers_with_the_token_and_none_without() {
    let api = TestApi::start();
    for (method, path) in ROUTES {
        if *path == "/api/v1/watch" {
            continue;
        }
        let path = path
            .replace("{machine}", MAC)
            .replace("{boot}", "0000000000000001")
            .replace("{image}", "web:1")
            .replace("{rule}", "r")
            .replace("{secret}", "s");
        let body = match (*method, path.ends_with("/pin") || path.ends_with("/default")) {
            ("PUT", false) => r#"{"selector":"all","target":"local"}"#,
            ("PUT", true) => r#"{"target":"local"}"#,
            ("PATCH", _) => r#"{"rack":"a1"}"#,
            _ => "",
        };
        let (status, text) = api.ask(method, &path, None, body);
        assert_eq!(status, 401, "{method} {path} without a token: {text}");
        let (status, text) = api.ask(method, &path, Some(TOKEN), body);
        let routed = !matches!(status, 0 | 405 | 401 | 500..) && !text.contains("nothing is at");
        assert!(routed, "{method} {path}: {status} {text}");
    }
}

#[test]
fn refusals_are_json_that_says_what_to_do() {
    let api = TestApi::start();
    let pin = format!("/api/v1/machines/{MAC}/pin");
    for (method, path, body, status, words) in [
        ("GET", "/api/v1/nix", "", 404, "nothing is at /api/v1/nix"),
        ("GET", "/", "", 404, "nothing is at /"),
        ("POST", "/api/v1/leases", "", 405, "knows no POST"),
        ("GET", "/api/v1/boots?limit=x", "", 400, "limit"),
        ("GET", "/api/v1/boots/xyz", "", 400, "16 hex digits"),
        ("PUT", pin.as_str(), "{", 400, "JSON"),
        ("PUT", pin.as_str(), r#"{"image":"web:1"}"#, 422, "unknown field `image`, expected `target`"),
        ("PUT", pin.as_str(), r#"{"target":"no such"}"#, 404, "no such"),
        ("PATCH", "/api/v1/machines/nix", r#"{"rack":"a"}"#, 404, "no machine `nix`"),
    ] {
        let (got, text) = api.ask(method, path, Some(TOKEN), body);
        assert_eq!(got, status, "{method} {path} {body}: {text}");
        let parsed: ErrorBody = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"));
        assert!(parsed.error.contains(words), "{path}: {text}");
    }
}

#[test]
fn bodies_heads_and_guesses_are_bounded() {
    let api = TestApi::start();
    let pin = format!("/api/v1/machines/{MAC}/pin");
    let (status, _) =
        api.ask("PUT", &pin, Some(TOKEN), &format!("{{\"target\":\"{}\"}}", "x".repeat(70_000)));
    assert_eq!(status, 413);
    let (status, _) =
        api.raw(&format!("GET /api/v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(40_000)));
    assert!(matches!(status, 431 | 400 | 0), "{status}");

    let wrong = "f".repeat(64);
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match api.ask("GET", "/api/v1/status", Some(&wrong), "").0 {
            429 => break,
            status => assert_eq!(status, 401),
        }
        assert!(std::time::Instant::now() < end, "guesses are never slowed down");
    }
    // Nothing is answered to the right token either until the guesser's second is over; then it is.
    let client = api.client();
    while client.status().is_err() {
        assert!(std::time::Instant::now() < end, "the right token stays refused");
        std::thread::yield_now();
    }
}

#[test]
fn the_live_stream_begins_and_ends_with_the_service() {
    let api = TestApi::start();
    let mut lines = api.client().watch().unwrap();
    api.stop.send(true).unwrap();
    assert!(lines.next().is_none(), "the stream ends when the service does");
}

#[test]
fn a_boot_is_seen_live_and_on_record_without_its_token() {
    let api = TestApi::start();
    let mut lines = api.client().watch().unwrap();
    let server = ServerAddr { ip: [127, 0, 0, 1].into(), http_port: 8080 };
    let query = ScriptQuery { mac: MAC.into(), platform: "efi".into(), ..ScriptQuery::default() };
    let runtime = api.runtime.as_ref().unwrap();
    runtime.block_on(api.provisioner.script(server, [198, 18, 0, 20].into(), query)).unwrap();
    let seen = lines.next().unwrap().unwrap();
    assert_eq!(seen.mac.to_string(), MAC);

    let client = api.client();
    let boots = client.attempts(Some(MAC), 10).unwrap();
    assert_eq!(boots.len(), 1);
    assert_eq!(client.attempt(&boots[0].id.to_string()).unwrap().id, seen.id);
    assert!(boots[0].stages.iter().any(|s| s.stage == Stage::Script), "{boots:?}");
    for path in ["/api/v1/boots".to_owned(), format!("/api/v1/boots/{}", seen.id)] {
        let (status, text) = api.ask("GET", &path, Some(TOKEN), "");
        assert_eq!(status, 200);
        assert!(!text.contains("token"), "{text}");
    }
    // Who comes later is told what still runs.
    let again = api.client().watch().unwrap().next().unwrap().unwrap();
    assert_eq!(again.id, seen.id);
}

#[test]
fn status_tells_version_and_counters() {
    let api = TestApi::start();
    let status = api.client().status().unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.counters["provisioner"]["machines"], 0);
    assert!(status.counters.contains_key("dhcp") && status.counters.contains_key("api"));
}

#[test]
fn what_is_answered_is_there_after_a_restart() {
    let dir = Dir::new("restart");
    let open = || {
        let images = ImageStore::open(&dir.0.join("store")).unwrap();
        let nbps = Nbps::load(&dir.0.join("nbp")).unwrap();
        Provisioner::open(Options::default(), &dir.0, images, nbps, Arc::new(SystemClock::new())).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = open();
    runtime.block_on(first.pin(MAC, "local")).unwrap();
    drop(first);
    assert_eq!(open().machine(MAC).unwrap().pin, Some(BootTarget::Local));
}

#[test]
fn the_document_lists_every_route_and_no_other() {
    let doc = include_str!("../../docs/api.md");
    let mut listed: Vec<(String, String)> = doc
        .lines()
        .filter_map(|l| l.strip_prefix("| `"))
        .filter_map(|l| l.split_once("` | `/"))
        .map(|(method, rest)| (method.to_owned(), format!("/{}", rest.split('`').next().unwrap_or(""))))
        .collect();
    let mut routes: Vec<(String, String)> =
        ROUTES.iter().map(|(m, p)| ((*m).to_owned(), (*p).to_owned())).collect();
    listed.sort();
    routes.sort();
    assert_eq!(listed, routes);
}
