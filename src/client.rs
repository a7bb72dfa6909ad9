//! Client of the operators' API, used by the command line and the lab.

mod push;

pub use push::{PushError, Pushed};

use crate::{
    fleet::{ApplyOrder, Exported, ImportOrder},
    model::{
        BootAttempt, Lease, Machine, Power, PowerAction, Secret,
        audit::{AuditEntry, LogHead, LogVerified},
        wire::{
            API_PREFIX, Assign, Assigned, Changes, ConfigView, ErrorBody, ImageView, MESSAGE_HEADER,
            OPERATOR_HEADER, PowerCertificate, PowerOrder, PowerStatus, ProfileView, RolloutOrder,
            RolloutView, RuleView, SecretView, SetProfile, SetRule, StartRollout, Status,
        },
    },
    provisioner::{Explanation, MachinePatch},
    store::db::LogQuery,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::http;

/// Longest wait for a whole answer; a pin waits for the disk.
const ANSWER: Duration = Duration::from_secs(60);
/// The same where the service has much to do.
const LONG_ANSWER: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer that is read: some hundred thousand machines.
const MAX_ANSWER: u64 = 512 << 20;
/// A live stream says something at least every 15 s; after this long the service is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest line of a live stream.
const MAX_LINE: u64 = 1 << 20;

/// Why the API could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no answer from {url}: {why}\n  help: is the service running? Start it with `pristine serve`, or name another with --api"
    )]
    NotRunning {
        /// URL of the API.
        url: String,
        /// What the connection said.
        why: String,
    },
    /// The token can't be read.
    #[error("can't read the API token {}: {source}\n  help: {help}", path.display())]
    Token {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        help: &'static str,
    },
    /// What is in the file can't be a token.
    #[error("{} holds no API token\n  help: stop the service, delete the file and start it again: it makes a new one", .0.display())]
    TokenEmpty(PathBuf),
    /// The URL is none.
    #[error("`{0}` can't be the URL of the API: write http://127.0.0.1:8081")]
    BadUrl(String),
    /// A name or a message that can't be sent.
    #[error("what is to be said in {0} has characters that can't be sent")]
    BadName(&'static str),
    /// The service said no.
    #[error("{}", words(.body))]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        body: Box<ErrorBody>,
    },
    /// Something that is not this API answered, or broke off.
    #[error("{url} gave an answer that this program can't read: {why}\n  help: is it the API of a pristine of version {}?", env!("CARGO_PKG_VERSION"))]
    Answer {
        /// URL.
        url: String,
        /// What is odd about it.
        why: String,
    },
}

fn words(body: &ErrorBody) -> String {
    let mut text = body.error.clone();
    if !body.nearest.is_empty() && !body.nearest.iter().all(|n| body.error.contains(n.as_str())) {
        text.push_str(&format!("\n  did you mean: {}?", body.nearest.join(", ")));
    }
    if let Some(hint) = &body.hint {
        text.push_str("\n  help: ");
        text.push_str(hint);
    }
    text
}

/// Asks the API of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    token: String,
    /// Headers that say in whose name, and why, something is changed.
    named: Vec<(&'static str, String)>,
}

/// How long an answer may take.
#[derive(Clone, Copy)]
enum Wait {
    /// A whole answer within this time.
    Whole(Duration),
    /// A stream without an end.
    Live,
}

type Reply<T> = Result<T, ClientError>;

impl Client {
    /// A client of the service at `url` (as in `http://127.0.0.1:8081`), with the token in that file.
    pub fn new(url: &str, token_file: &Path) -> Reply<Client> {
        Client::with_token(url, &read_token(token_file)?)
    }

    /// The same with the token itself.
    pub fn with_token(url: &str, token: &str) -> Reply<Client> {
        let base = url.trim_end_matches('/').trim_end_matches(API_PREFIX).to_owned();
        let valid = base.strip_prefix("http://").is_some_and(|host| !host.is_empty() && !host.contains(' '));
        if !valid {
            return Err(ClientError::BadUrl(url.to_owned()));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .build()
            .new_agent();
        Ok(Client { agent, base, token: token.to_owned(), named: Vec::new() })
    }

    /// The same client; what it changes is told to be done by `operator` (a claim, nothing more), and why.
    pub fn in_name_of(self, operator: Option<String>, why: Option<String>) -> Client {
        let named = [(OPERATOR_HEADER, operator), (MESSAGE_HEADER, why)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Client { named, ..self }
    }

    /// Every machine, or those that a selector picks.
    pub fn machines(&self, select: Option<&str>) -> Reply<Vec<Machine>> {
        match select {
            // In a query a plus would be read as a blank.
            Some(selector) => self.get(&format!("/machines?select={}", part(selector).replace('+', "%2B"))),
            None => self.get("/machines"),
        }
    }

    /// One machine, by MAC or hostname.
    pub fn machine(&self, key: &str) -> Reply<Machine> {
        self.get(&format!("/machines/{}", part(key)))
    }

    /// Changes what an operator may change of a machine.
    pub fn set_machine(&self, key: &str, patch: &MachinePatch) -> Reply<Machine> {
        self.send("PATCH", &format!("/machines/{}", part(key)), Some(patch))
    }

    /// Forgets a machine.
    pub fn forget(&self, key: &str) -> Reply<()> {
        self.call("DELETE", &format!("/machines/{}", part(key)), None).map(drop)
    }

    /// Pins a machine to an image, `local`, `ignore` or `discover`; what it would get now.
    pub fn pin(&self, key: &str, target: &str) -> Reply<Explanation> {
        let body = Assign { target: target.to_owned() };
        self.send("PUT", &format!("/machines/{}/pin", part(key)), Some(&body))
    }

    /// Takes a pin away; what it would get now.
    pub fn unpin(&self, key: &str) -> Reply<Explanation> {
        self.send::<(), _>("DELETE", &format!("/machines/{}/pin", part(key)), None)
    }

    /// Wipes what its record says of images that failed on it; what it would get now.
    pub fn retry(&self, key: &str) -> Reply<Explanation> {
        self.send::<(), _>("POST", &format!("/machines/{}/retry", part(key)), None)
    }

    /// What it would get now, and why.
    pub fn explain(&self, key: &str) -> Reply<Explanation> {
        self.get(&format!("/machines/{}/explain", part(key)))
    }

    /// Sets how a machine is switched on and off.
    pub fn set_power(&self, key: &str, power: &Power) -> Reply<Machine> {
        self.send("PUT", &format!("/machines/{}/power", part(key)), Some(power))
    }

    /// A machine's power, as its BMC says now.
    pub fn power_status(&self, key: &str) -> Reply<PowerStatus> {
        self.get(&format!("/machines/{}/power", part(key)))
    }

    /// Has a machine's BMC do something to its power.
    pub fn power_act(&self, key: &str, action: PowerAction) -> Reply<()> {
        let body = serde_json::to_vec(&PowerOrder { action }).map_err(|e| broken(&self.base, e))?;
        self.call("POST", &format!("/machines/{}/power", part(key)), Some(body)).map(drop)
    }

    /// The certificate that a machine's BMC shows.
    pub fn power_certificate(&self, key: &str) -> Reply<PowerCertificate> {
        self.get(&format!("/machines/{}/power/certificate", part(key)))
    }

    /// The site's default.
    pub fn default_target(&self) -> Reply<Assigned> {
        self.get("/default")
    }

    /// Sets the site's default.
    pub fn set_default(&self, target: &str) -> Reply<Assigned> {
        self.send("PUT", "/default", Some(&Assign { target: target.to_owned() }))
    }

    /// Clears the site's default.
    pub fn clear_default(&self) -> Reply<()> {
        self.call("DELETE", "/default", None).map(drop)
    }

    /// The selector rules, in the order in which they are asked.
    pub fn rules(&self) -> Reply<Vec<RuleView>> {
        self.get("/rules")
    }

    /// Sets a selector rule.
    pub fn set_rule(&self, name: &str, selector: &str, target: &str) -> Reply<RuleView> {
        let body = SetRule { selector: selector.to_owned(), target: target.to_owned() };
        self.send("PUT", &format!("/rules/{}", part(name)), Some(&body))
    }

    /// Removes a selector rule.
    pub fn remove_rule(&self, name: &str) -> Reply<()> {
        self.call("DELETE", &format!("/rules/{}", part(name)), None).map(drop)
    }

    /// The profiles, the one that counts most first, without their documents.
    pub fn profiles(&self) -> Reply<Vec<ProfileView>> {
        self.get("/profiles")
    }

    /// One profile with its document.
    pub fn profile(&self, name: &str) -> Reply<ProfileView> {
        self.get(&format!("/profiles/{}", part(name)))
    }

    /// Sets a profile.
    pub fn set_profile(&self, name: &str, selector: &str, document: &str) -> Reply<ProfileView> {
        let body = SetProfile { selector: selector.to_owned(), document: document.to_owned() };
        self.send("PUT", &format!("/profiles/{}", part(name)), Some(&body))
    }

    /// Removes a profile.
    pub fn remove_profile(&self, name: &str) -> Reply<()> {
        self.call("DELETE", &format!("/profiles/{}", part(name)), None).map(drop)
    }

    /// What a machine would get besides its image.
    pub fn render(&self, key: &str) -> Reply<ConfigView> {
        self.get(&format!("/machines/{}/config", part(key)))
    }

    /// Every rollout, the newest first.
    pub fn rollouts(&self) -> Reply<Vec<RolloutView>> {
        self.get("/rollouts")
    }

    /// One rollout.
    pub fn rollout(&self, name: &str) -> Reply<RolloutView> {
        self.get(&format!("/rollouts/{}", part(name)))
    }

    /// Starts a rollout.
    pub fn start_rollout(&self, order: &StartRollout) -> Reply<RolloutView> {
        self.send("POST", "/rollouts", Some(order))
    }

    /// Changes how a rollout goes on.
    pub fn order_rollout(&self, name: &str, order: RolloutOrder) -> Reply<RolloutView> {
        self.send("POST", &format!("/rollouts/{}", part(name)), Some(&order))
    }

    /// Removes a rollout that is over.
    pub fn remove_rollout(&self, name: &str) -> Reply<()> {
        self.call("DELETE", &format!("/rollouts/{}", part(name)), None).map(drop)
    }

    /// Every secret, without values.
    pub fn secrets(&self) -> Reply<Vec<SecretView>> {
        self.get("/secrets")
    }

    /// Sets a secret.
    pub fn set_secret(&self, name: &str, value: &Secret) -> Reply<SecretView> {
        self.send_bytes("PUT", &format!("/secrets/{}", part(name)), value.expose().to_vec(), ANSWER)
    }

    /// Removes a secret.
    pub fn remove_secret(&self, name: &str) -> Reply<()> {
        self.call("DELETE", &format!("/secrets/{}", part(name)), None).map(drop)
    }

    /// The newest boot attempts, of one machine or of all, newest first.
    pub fn attempts(&self, machine: Option<&str>, limit: usize) -> Reply<Vec<BootAttempt>> {
        match machine {
            Some(key) => self.get(&format!("/machines/{}/boots?limit={limit}", part(key))),
            None => self.get(&format!("/boots?limit={limit}")),
        }
    }

    /// One boot attempt, by its 16 hex digits.
    pub fn attempt(&self, id: &str) -> Reply<BootAttempt> {
        self.get(&format!("/boots/{}", part(id)))
    }

    /// Names, describes and pins many machines, all or none.
    pub fn import_machines(&self, order: &ImportOrder) -> Reply<Changes> {
        self.send_much("/machines", order)
    }

    /// Makes the site what a document says, or says what that would change.
    pub fn apply(&self, order: &ApplyOrder) -> Reply<Changes> {
        self.send_much("/apply", order)
    }

    /// The site as a document.
    pub fn export(&self) -> Reply<Exported> {
        self.get("/export")
    }

    fn send_much<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Reply<T> {
        let body = serde_json::to_vec(body).map_err(|e| broken(&self.base, e))?;
        self.send_bytes("POST", path, body, LONG_ANSWER)
    }

    /// Records of the audit log, of one machine or of all. What `query` says of a machine is not looked at.
    pub fn log(&self, machine: Option<&str>, query: &LogQuery) -> Reply<Vec<AuditEntry>> {
        let mut path = format!("/log?limit={}", query.limit);
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={value}"));
            }
        };
        add("machine", machine.map(|key| part(key).replace('+', "%2B")));
        add("since", query.since.map(|n| n.to_string()));
        add("before", query.before.map(|n| n.to_string()));
        add("after", query.after.map(|n| n.to_string()));
        self.get(&path)
    }

    /// Has the service walk along its whole audit log; `noted` is an end of it that was noted before.
    pub fn verify_log(&self, noted: Option<LogHead>) -> Reply<LogVerified> {
        let query = noted.map_or_else(String::new, |head| format!("?head={head}"));
        let wait = Wait::Whole(LONG_ANSWER);
        let bytes = self.read(self.request("GET", &format!("/log/verify{query}"), None, wait)?)?;
        serde_json::from_slice(&bytes).map_err(|e| broken(&self.base, e))
    }

    /// Every lease.
    pub fn leases(&self) -> Reply<Vec<Lease>> {
        self.get("/leases")
    }

    /// Every image in the service's store.
    pub fn images(&self) -> Reply<Vec<ImageView>> {
        self.get("/images")
    }

    /// One image, by tag or digest.
    pub fn image(&self, reference: &str) -> Reply<ImageView> {
        self.get(&format!("/images/{}", part(reference)))
    }

    /// How the service is.
    pub fn status(&self) -> Reply<Status> {
        self.get("/status")
    }

    /// Boot attempts as they change, until the service ends: first those that are running, then each
    /// one anew at every step.
    pub fn watch(&self) -> Reply<impl Iterator<Item = Reply<BootAttempt>> + use<>> {
        let response = self.request("GET", "/watch", None, Wait::Live)?;
        let mut lines = BufReader::new(response.into_body().into_with_config().limit(u64::MAX).reader());
        let url = self.base.clone();
        Ok(std::iter::from_fn(move || {
            loop {
                let mut line = Vec::new();
                match (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    // Killed, or gone from the network: for the one who watches, it ended.
                    Err(_) => return None,
                }
                let text = line.trim_ascii();
                if !text.is_empty() {
                    return Some(serde_json::from_slice(text).map_err(|e| broken(&url, e)));
                }
            }
        }))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Reply<T> {
        self.send::<(), T>("GET", path, None)
    }

    fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&B>,
    ) -> Reply<T> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| broken(&self.base, e))?;
        let bytes = self.call(method, path, body)?;
        serde_json::from_slice(&bytes).map_err(|e| broken(&self.base, e))
    }

    /// Sends bytes that are no JSON, and waits up to `longest` for the answer.
    fn send_bytes<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        longest: Duration,
    ) -> Reply<T> {
        let bytes = self.read(self.request(method, path, Some(body), Wait::Whole(longest))?)?;
        serde_json::from_slice(&bytes).map_err(|e| broken(&self.base, e))
    }

    fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Reply<Vec<u8>> {
        self.read(self.request(method, path, body, Wait::Whole(ANSWER))?)
    }

    fn read(&self, response: http::Response<ureq::Body>) -> Reply<Vec<u8>> {
        response
            .into_body()
            .into_with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map_err(|e| broken(&self.base, e))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
        wait: Wait,
    ) -> Reply<http::Response<ureq::Body>> {
        let mut request = http::Request::builder();
        for (name, value) in &self.named {
            let value = http::HeaderValue::from_bytes(value.as_bytes());
            request = request.header(*name, value.map_err(|_| ClientError::BadName(name))?);
        }
        let request = request
            .method(method)
            .uri(format!("{}{API_PREFIX}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.unwrap_or_default())
            .map_err(|_| ClientError::BadUrl(self.base.clone()))?;
        let configured = self.agent.configure_request(request);
        let configured = match wait {
            Wait::Live => configured.timeout_per_read(Some(SILENCE)),
            Wait::Whole(longest) => configured.timeout_global(Some(longest)),
        };
        let mut response = self
            .agent
            .run(configured.allow_non_standard_methods(true).build())
            .map_err(|e| ClientError::NotRunning { url: self.base.clone(), why: e.to_string() })?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let body = response.body_mut().with_config().limit(MAX_LINE).read_to_vec().unwrap_or_default();
        match serde_json::from_slice(&body) {
            Ok(body) => Err(ClientError::Refused { status, body }),
            Err(_) => {
                Err(ClientError::Answer { url: self.base.clone(), why: format!("HTTP status {status}") })
            }
        }
    }
}

fn broken(url: &str, why: impl ToString) -> ClientError {
    ClientError::Answer { url: url.to_owned(), why: why.to_string() }
}

/// A word as one segment of a path.
fn part(word: &str) -> String {
    let mut out = String::new();
    for byte in word.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._:+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // `.` and `..` would be taken for steps in the path.
    if out.bytes().all(|b| b == b'.') { out.replace('.', "%2E") } else { out }
}

/// The token in that file.
fn read_token(path: &Path) -> Reply<String> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let help = match source.kind() {
            io::ErrorKind::NotFound => {
                "the service makes it at its first start: start it with `pristine serve`, or name the file with --token-file or --config"
            }
            io::ErrorKind::PermissionDenied => "only the service's own user may read it: run this as that user, or with sudo",
            _ => "name another file with --token-file",
        };
        ClientError::Token { path: path.to_owned(), source, help }
    })?;
    let token = text.trim();
    let fine = (32..=256).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    if fine { Ok(token.to_owned()) } else { Err(ClientError::TokenEmpty(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_word_stays_one_segment_of_the_path() {
        assert_eq!(part("52:54:00:12:34:56"), "52:54:00:12:34:56");
        assert_eq!(part("web:1+b"), "web:1+b");
        assert_eq!(part("a/../b?c#d e"), "a%2F..%2Fb%3Fc%23d%20e");
        assert_eq!(part(".."), "%2E%2E");
    }

    #[test]
    fn says_what_to_do_when_nobody_listens() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let url = format!("http://127.0.0.1:{port}/");
        let client = Client::with_token(&url, &"0".repeat(64)).unwrap();
        let text = client.machines(None).unwrap_err().to_string();
        assert!(text.starts_with(&format!("no answer from http://127.0.0.1:{port}: ")), "{text}");
        assert!(text.ends_with("Start it with `pristine serve`, or name another with --api"), "{text}");
    }

    /// A service that is killed breaks the stream off in the middle.
    #[test]
    fn a_live_view_that_is_broken_off_has_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let killed = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\n\n\r\n";
            io::Write::write_all(&mut stream, begun).unwrap();
        });
        let client = Client::with_token(&url, &"0".repeat(64)).unwrap();
        assert!(client.watch().unwrap().next().is_none());
        killed.join().unwrap();
    }

    #[test]
    fn names_the_token_file_that_is_missing() {
        let text =
            Client::new("http://127.0.0.1:1", Path::new("/nowhere/api-token")).unwrap_err().to_string();
        assert!(text.starts_with("can't read the API token /nowhere/api-token: "), "{text}");
        assert!(text.contains("the service makes it at its first start"), "{text}");
    }
}
