//! BMCs: a good one is asked in the right order, and whatever a bad one does stays a bounded, visible
//! failure of its own machine. The BMCs are small servers of these tests.

use super::api::{Dir, TestApi};
use pristine::{
    client::ClientError,
    model::{BootOnce, Digest, Power, PowerAction, Redfish, Secret},
    power::{Bmc, Credentials, LONGEST, PowerError, fingerprint},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_rustls::rustls::{
    self,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

const MAC: &str = "52:54:00:00:00:01";
const OTHER: &str = "52:54:00:00:00:02";

/// A server that answers each request by a function, one connection each, and notes what it was asked.
/// Its thread ends with the test's process.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Server {
        Server::with(answer, |stream, talk| talk(&mut { stream }))
    }

    /// The same behind TLS with this certificate.
    fn tls(files: &Identity, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Server {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let config = Arc::new(builder.with_single_cert(vec![files.certificate.clone()], key).unwrap());
        Server::with(answer, move |stream, talk| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            talk(&mut rustls::StreamOwned::new(connection, stream));
        })
    }

    fn with(
        answer: impl Fn(&str) -> Vec<u8> + Send + 'static,
        wrap: impl Fn(TcpStream, &dyn Fn(&mut dyn Talk)) + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                wrap(stream, &|stream| {
                    let Some(request) = read_request(stream) else { return };
                    let bytes = answer(&request);
                    noted.lock().unwrap().push(request);
                    // Whoever has enough of it hangs up.
                    let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
                });
            }
        });
        Server { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn redfish(&self, scheme: &str) -> Redfish {
        let url = format!("{scheme}://127.0.0.1:{}", self.port);
        Redfish { url, system: None, secret: "bmc".into(), certificate: None, boot: BootOnce::Pxe }
    }

    fn bmc(&self, longest: Duration) -> Bmc {
        bmc(self.redfish("http"), longest)
    }
}

trait Talk: Read + Write {}

impl<S: Read + Write> Talk for S {}

fn bmc(redfish: Redfish, longest: Duration) -> Bmc {
    let credentials = Credentials::of("bmc", &Secret::new(b"root:hunter2\n".to_vec())).unwrap();
    Bmc { power: Power::Redfish(redfish), credentials, firmware: None, longest }
}

/// Head and body of a request.
fn read_request(stream: &mut dyn Talk) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    let mut length = None;
    loop {
        if length.is_some_and(|l| bytes.len() >= l) {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
        if length.is_none() && bytes.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let body = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            length = Some(bytes.len() + body.unwrap_or(0));
        }
    }
}

fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

/// A BMC that does as it should; its system is in this state.
fn good(state: &str) -> impl Fn(&str) -> Vec<u8> + Send + 'static {
    let system = format!(
        r##"{{"PowerState":"{state}","Manufacturer":"Acme","Model":"R1","Boot":{{"BootSourceOverrideTarget":"None",
            "BootSourceOverrideTarget@Redfish.AllowableValues":["Pxe","Hdd"]}},"Actions":{{"#ComputerSystem.Reset":
            {{"target":"/redfish/v1/Systems/1/Reset","@Redfish.ActionInfo":"/redfish/v1/Systems/1/ResetInfo"}}}}}}"##
    );
    move |request| match request.lines().next().unwrap_or_default() {
        "GET /redfish/v1/ HTTP/1.1" => http(200, "", r#"{"Systems":{"@odata.id":"/redfish/v1/Systems"}}"#),
        "GET /redfish/v1/Systems HTTP/1.1" => {
            http(200, "", r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}"#)
        }
        "GET /redfish/v1/Systems/1 HTTP/1.1" => http(200, "ETag: \"7\"\r\n", &system),
        "GET /redfish/v1/Systems/1/ResetInfo HTTP/1.1" => http(
            200,
            "",
            r#"{"Parameters":[{"Name":"ResetType","AllowableValues":["On","ForceOff","PowerCycle"]}]}"#,
        ),
        "PATCH /redfish/v1/Systems/1 HTTP/1.1" | "POST /redfish/v1/Systems/1/Reset HTTP/1.1" => {
            http(204, "", "")
        }
        other => http(404, "", &format!(r#"{{"error":{{"message":"no {other}"}}}}"#)),
    }
}

#[tokio::test]
async fn a_machine_is_cycled_by_what_its_bmc_allows() {
    let server = Server::start(good("On"));
    server.bmc(LONGEST).act(PowerAction::Cycle).await.unwrap();
    let asked = server.asked();
    let lines: Vec<&str> = asked.iter().map(|r| r.lines().next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "GET /redfish/v1/ HTTP/1.1",
            "GET /redfish/v1/Systems HTTP/1.1",
            "GET /redfish/v1/Systems/1 HTTP/1.1",
            "PATCH /redfish/v1/Systems/1 HTTP/1.1",
            "GET /redfish/v1/Systems/1/ResetInfo HTTP/1.1",
            "POST /redfish/v1/Systems/1/Reset HTTP/1.1",
        ]
    );
    // root:hunter2
    assert!(asked.iter().all(|r| r.contains("authorization: Basic cm9vdDpodW50ZXIy\r\n")), "{asked:?}");
    assert!(asked[3].contains("if-match: \"7\"\r\n"), "{}", asked[3]);
    let once = r#"{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}"#;
    assert!(asked[3].ends_with(once), "{}", asked[3]);
    assert!(asked[5].ends_with(r#"{"ResetType":"PowerCycle"}"#), "ForceRestart isn't allowed: {}", asked[5]);

    let off = Server::start(good("Off"));
    off.bmc(LONGEST).act(PowerAction::Cycle).await.unwrap();
    assert!(off.asked().last().unwrap().ends_with(r#"{"ResetType":"On"}"#));
    off.bmc(LONGEST).act(PowerAction::Off).await.unwrap();
    assert!(off.asked().last().unwrap().starts_with("GET "), "it is off: nothing to be done");
    let status = off.bmc(LONGEST).status().await.unwrap();
    assert_eq!((status.state.as_str(), status.model.as_deref()), ("Off", Some("Acme R1")));
    let http = Redfish { boot: BootOnce::Http, ..off.redfish("http") };
    let said = bmc(http, LONGEST).act(PowerAction::BootOnce).await.unwrap_err().to_string();
    assert!(said.contains("can boot once from Pxe, Hdd, not from UefiHttp"), "{said}");
}

#[tokio::test]
async fn whatever_a_bad_bmc_answers_is_a_bounded_error_in_words() {
    let evil = r#"{"Systems":{"@odata.id":"https://198.18.0.9/redfish/v1/Systems"}}"#;
    let twice = r#"{"Systems":{"@odata.id":"//198.18.0.9/x"}}"#;
    let echo = r#"{"error":{"@Message.ExtendedInfo":[{"Message":"hunter2 is\u001b[31m wrong"}]}}"#;
    let huge_head = format!("X: {}\r\n", "x".repeat(100_000));
    let many_heads = "X: y\r\n".repeat(1_000);
    for (what, answer, words) in [
        ("nothing", Vec::new(), "http://127.0.0.1:"),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "http://127.0.0.1:"),
        ("no JSON", http(200, "", "<html>"), "its answer to GET /redfish/v1/ is no JSON"),
        ("deep JSON", http(200, "", &"[".repeat(100_000)), "recursion limit"),
        ("odd JSON", http(200, "", "[1]"), "its service root names no systems"),
        ("links elsewhere", http(200, "", evil), "which is no path of its own"),
        ("links to a host", http(200, "", twice), "which is no path of its own"),
        (
            "a loop",
            http(302, "Location: /redfish/v1/\r\n", ""),
            "redirects GET /redfish/v1/ to `/redfish/v1/`",
        ),
        ("redirect", http(308, "Location: http://198.18.0.9/\r\n", ""), "to `http://198.18.0.9/`"),
        ("refusal", http(401, "", ""), "said 401 to GET /redfish/v1/: the user or the password is wrong"),
        ("echo", http(400, "", echo), "said 400 to GET /redfish/v1/: *** is [31m wrong"),
        ("huge body", http(200, "", &" ".repeat(3 << 20)), "has more than 1048576 bytes"),
        ("huge head", http(200, &huge_head, "{}"), "http://127.0.0.1:"),
        ("many heads", http(200, &many_heads, "{}"), "http://127.0.0.1:"),
        ("cut", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{".to_vec(), "http://127.0.0.1:"),
    ] {
        let server = Server::start(move |_| answer.clone());
        let said = server.bmc(LONGEST).act(PowerAction::Cycle).await.unwrap_err().to_string();
        assert!(said.contains(words), "{what}: {said}");
        assert!(said.len() < 600 && !said.contains("hunter2") && !said.contains('\u{1b}'), "{what}: {said}");
        assert_eq!(server.asked().len(), 1, "{what}: nothing is asked twice");
    }
    let two = r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/A"},{"@odata.id":"/redfish/v1/Systems/B"}]}"#;
    let server = Server::start(move |request| match request.contains("/Systems") {
        true => http(200, "", two),
        false => http(200, "", r#"{"Systems":{"@odata.id":"/redfish/v1/Systems"}}"#),
    });
    let said = server.bmc(LONGEST).status().await.unwrap_err().to_string();
    assert!(said.ends_with("has 2 computer systems: name one with --system, of A, B"), "{said}");
}

#[tokio::test]
async fn one_that_hangs_is_given_up_in_time() {
    // Takes connections into its backlog, and never looks at them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
    let given_up = server.bmc(Duration::from_millis(200)).act(PowerAction::Cycle).await;
    assert_eq!(given_up, Err(PowerError::Late(Duration::from_millis(200))));
    drop(listener);
    // A process that another test starts just now has the listener for a moment longer, and resets connections.
    let mut said = String::new();
    for _ in 0..100 {
        said = server.bmc(LONGEST).status().await.unwrap_err().to_string();
        if !said.contains("reset") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(said.contains("refused"), "{said}");
}

/// A key and a certificate that nobody vouches for.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub pem: std::path::PathBuf,
    pub key: std::path::PathBuf,
}

impl Identity {
    pub fn make(dir: &Path, name: &str) -> Identity {
        let (pem, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "1", "-subj", &format!("/CN={name}"), "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&pem)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Identity { certificate: CertificateDer::from_pem_file(&pem).unwrap(), pem, key }
    }

    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }
}

#[tokio::test]
async fn only_the_pinned_certificate_gets_a_password() {
    let dir = Dir::new("pin");
    let (own, other) = (Identity::make(&dir.0, "own"), Identity::make(&dir.0, "other"));
    let server = Server::tls(&own, good("On"));
    let unpinned = server.redfish("https");
    assert_eq!(fingerprint(&unpinned.url).await, Ok(own.fingerprint()));
    let said = bmc(unpinned.clone(), LONGEST).status().await.unwrap_err();
    assert_eq!(said, PowerError::NotPinned(unpinned.url.clone()));
    let wrong = Redfish { certificate: Some(other.fingerprint()), ..unpinned.clone() };
    let said = bmc(wrong, LONGEST).status().await.unwrap_err();
    let got = own.fingerprint().to_string();
    assert_eq!(said, PowerError::OtherCertificate { url: unpinned.url.clone(), got });
    assert!(server.asked().is_empty(), "nothing was sent: {:?}", server.asked());
    let pinned = Redfish { certificate: Some(own.fingerprint()), ..unpinned };
    assert_eq!(bmc(pinned, LONGEST).status().await.unwrap().state, "On");
}

#[test]
fn a_bmc_is_set_once_its_secret_is_there_and_its_faults_are_its_machines_alone() {
    let api = TestApi::start();
    let client = api.client();
    let refused = |error: ClientError| match error {
        ClientError::Refused { status, body } => (status, body.error),
        other => panic!("{other}"),
    };
    let (good, bad) = (Server::start(good("On")), Server::start(|_| http(503, "", "")));
    let (status, said) = refused(client.power_status(MAC).unwrap_err());
    assert_eq!(status, 404, "{said}");
    let (status, said) = refused(client.set_power(MAC, &Power::Redfish(good.redfish("http"))).unwrap_err());
    assert_eq!((status, said.as_str()), (404, "no secret `bmc`"));
    client.set_secret("bmc", &Secret::new(b"hunter2".to_vec())).unwrap();
    let (status, said) = refused(client.set_power(MAC, &Power::Redfish(good.redfish("http"))).unwrap_err());
    assert!(status == 400 && said.starts_with("secret bmc is no user:password"), "{said}");
    client.set_secret("bmc", &Secret::new(b"root:hunter2".to_vec())).unwrap();
    for url in
        ["10.0.7.1", "ftp://10.0.7.1", "https://root:x@10.0.7.1", "https://10.0.7.1/redfish", "https://"]
    {
        let wrong = Power::Redfish(Redfish { url: url.into(), ..good.redfish("http") });
        let (status, said) = refused(client.set_power(MAC, &wrong).unwrap_err());
        assert!(status == 400 && said.contains("can't be the URL of a BMC"), "{url}: {said}");
    }
    client.set_power(MAC, &Power::Redfish(good.redfish("http"))).unwrap();
    client.set_power(OTHER, &Power::Redfish(bad.redfish("http"))).unwrap();
    for times in 1..=2 {
        let (status, said) = refused(client.power_act(OTHER, PowerAction::Cycle).unwrap_err());
        assert!(status == 502 && said.contains("said 503 to GET /redfish/v1/"), "{said}");
        assert_eq!(client.machine(OTHER).unwrap().power_fault.unwrap().times, times);
    }
    client.power_act(MAC, PowerAction::Cycle).unwrap();
    assert_eq!(client.power_status(MAC).unwrap().state, "On");
    assert_eq!(client.machine(MAC).unwrap().power_fault, None);
    let (status, said) = refused(client.remove_secret("bmc").unwrap_err());
    assert!(status == 409 && said.contains("needs secret bmc for its power"), "{said}");
    for mac in [MAC, OTHER] {
        let machine = client.set_power(mac, &Power::Manual).unwrap();
        assert_eq!((machine.power, machine.power_fault), (Power::Manual, None));
    }
    client.remove_secret("bmc").unwrap();
    let (status, said) = refused(client.power_act(MAC, PowerAction::On).unwrap_err());
    assert!(status == 409 && said.contains("pristine power set"), "{said}");
}
