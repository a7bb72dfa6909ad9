//! Texts with facts of a machine put in, by minijinja: what isn't known is an error, work and output are bounded, and nothing but the
//! facts can be reached.

use super::Problem;
use crate::model::{Image, Machine, Secret, nearest};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

/// Work that one text may cost: one for each step, and for each 64 bytes that are made.
const FUEL: u64 = 100_000;
/// Deepest nesting of a template.
const DEPTH: usize = 50;

/// Names that a template may use.
const NAMES: [&str; 14] = [
    "mac", "macs", "hostname", "name", "rack", "label", "arch", "firmware", "product", "serial", "uuid",
    "address", "image", "facts",
];

/// What secrets become in texts.
#[derive(Clone, Default)]
pub enum Secrets {
    /// `<secret:NAME>`: for everybody but the machine itself.
    #[default]
    Hidden,
    /// Their values, by name.
    Known(Arc<BTreeMap<String, Secret>>),
}

/// What is known of a machine and its boot, by name. What isn't known is missing.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// What templates can put in.
    pub fn new(machine: &Machine, image: Option<&Image>, address: Option<Ipv4Addr>) -> Values {
        let mut facts = BTreeMap::new();
        let mut text = |name, value: Option<String>| {
            if let Some(value) = value {
                facts.insert(name, Value::from(value));
            }
        };
        text("mac", Some(machine.mac.to_string()));
        text("name", Some(machine.name()));
        text("hostname", machine.hostname.clone());
        text("rack", machine.rack.clone());
        text("arch", machine.arch.map(|a| a.to_string()));
        text("firmware", machine.firmware.map(|f| if f.is_bios() { "bios" } else { "uefi" }.to_owned()));
        text("product", machine.product.clone());
        text("serial", machine.serial.clone());
        text("uuid", machine.uuid.clone());
        text("address", address.map(|a| a.to_string()));
        let macs = [machine.mac].into_iter().chain(machine.other_macs.iter().copied());
        facts.insert("macs", macs.map(|m| m.to_string()).collect::<Vec<_>>().into());
        facts.insert("label", machine.labels.clone().into());
        if let Some(told) = &machine.facts {
            facts.insert("facts", Value::from(minijinja::value::Serde(told.as_ref())));
        }
        if let Some(image) = image {
            let tag = &image.manifest.tag;
            let of = [
                ("tag", tag.to_string()),
                ("name", tag.name.clone()),
                ("version", tag.version.clone()),
                ("digest", image.digest.to_string()),
            ];
            facts.insert("image", of.into_iter().collect::<BTreeMap<_, _>>().into());
        }
        Values(facts)
    }
}

/// Puts facts into the texts of one profile. Without facts it only checks that they could be.
pub struct Texts<'a> {
    profile: &'a str,
    facts: Option<&'a Values>,
    environment: Environment<'static>,
    hidden: bool,
    /// Names of secrets that texts asked for.
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl<'a> Texts<'a> {
    /// For the texts of this profile.
    pub fn new(profile: &'a str, facts: Option<&'a Values>, secrets: &Secrets) -> Texts<'a> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A file's last line end is the operator's. The usual delimiters can always be built.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH);
        // Names the unknown value in errors. What it shows on request is not for files.
        environment.set_debug(true);
        environment.remove_global("debug");
        let used = Arc::new(Mutex::new(BTreeSet::new()));
        let (noted, known) = (used.clone(), secrets.clone());
        environment.add_function("secret", move |name: String| {
            let value = secret(&name, &known);
            noted.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
            value
        });
        let hidden = matches!(secrets, Secrets::Hidden);
        Texts { profile, facts, environment, hidden, used }
    }

    /// An error at `place`.
    pub fn problem(&self, place: &str, what: impl Into<String>) -> Problem {
        Problem { profile: self.profile.to_owned(), place: place.to_owned(), line: None, what: what.into() }
    }

    /// A value that is no template.
    pub fn check<T>(&self, place: &str, checked: Result<T, String>) -> Result<T, Problem> {
        checked.map_err(|what| self.problem(place, what))
    }

    /// The secrets that were asked for so far.
    pub fn used(&self) -> BTreeSet<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A secret by its name alone.
    pub fn put_secret(&self, place: &str, name: &str) -> Result<String, Problem> {
        self.put_in_secrets(place, &format!("{{{{ secret({name:?}) }}}}"), |_| Ok(()))
    }

    /// `text` with facts put in, checked, where others may see it: no secrets. Without facts a template is given back as it stands.
    pub fn put_in(
        &self,
        place: &str,
        text: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<String, Problem> {
        let before = self.used();
        let put = self.put_in_secrets(place, text, check);
        if self.used() != before {
            return Err(
                self.problem(place, "a secret can't be used here, where it would be seen: use it in a file")
            );
        }
        put
    }

    /// The same with secrets, where only the machine sees it.
    pub fn put_in_secrets(
        &self,
        place: &str,
        text: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<String, Problem> {
        if !["{{", "{%", "{#"].iter().any(|mark| text.contains(mark)) {
            return self.check(place, check(text)).map(|()| text.to_owned());
        }
        let wrong = |e: &Error| Problem { line: e.line(), ..self.problem(place, words(e, text)) };
        let template = self.environment.template_from_named_str("", text).map_err(|e| wrong(&e))?;
        let Some(facts) = self.facts else {
            let known = |name: &String| {
                NAMES.contains(&name.as_str()) || self.environment.globals().any(|(global, _)| global == name)
            };
            return match template.undeclared_variables(false).into_iter().filter(|n| !known(n)).min() {
                Some(name) => {
                    let near =
                        nearest(&name, NAMES).map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
                    let line = text.lines().position(|l| l.contains(&name)).map(|n| n + 1);
                    let what = format!("nothing is called {name}{near}; there are {}", NAMES.join(", "));
                    Err(Problem { line, ..self.problem(place, what) })
                }
                None => Ok(text.to_owned()),
            };
        };
        let before = self.used().len();
        let rendered = template.render(facts.0.clone());
        let has_secrets = self.used().len() > before;
        let rendered = rendered.map_err(|e| match has_secrets && !self.hidden {
            // What went wrong may say what the secret is.
            true => self.problem(place, "the template can't be filled with the secrets that it uses"),
            false => wrong(&e),
        })?;
        match check(&rendered) {
            Ok(()) => Ok(rendered),
            // Only the secret's value can be judged.
            Err(_) if has_secrets && self.hidden => Ok(rendered),
            Err(_) if has_secrets => Err(self.problem(place, "it can't be what the secret makes of it")),
            Err(what) => Err(self.problem(place, what)),
        }
    }
}

fn secret(name: &str, secrets: &Secrets) -> Result<String, Error> {
    match secrets {
        Secrets::Hidden => Ok(format!("<secret:{name}>")),
        Secrets::Known(known) => {
            let value = known.get(name).map(|secret| std::str::from_utf8(secret.expose()));
            let missing = || Error::new(ErrorKind::InvalidOperation, format!("there is no secret {name}"));
            let no_text = || Error::new(ErrorKind::InvalidOperation, format!("secret {name} is no text"));
            value.ok_or_else(missing)?.map(str::to_owned).map_err(|_| no_text())
        }
    }
}

/// What is wrong, with the line of the template where it is.
fn words(e: &Error, text: &str) -> String {
    let what = match e.kind() {
        ErrorKind::OutOfFuel => "it costs too much work, or becomes too long".to_owned(),
        kind => match e.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    let line =
        e.line().and_then(|n| text.lines().nth(n.saturating_sub(1))).map(|l| format!(" in `{}`", l.trim()));
    let what = what + &line.unwrap_or_default();
    what.chars().filter(|c| !c.is_control()).take(300).collect()
}
