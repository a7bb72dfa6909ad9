//! A selector: an expression that picks machines by what is known of them.
//!
//! ```text
//! rack = a1 and arch = x86_64 and not label.role = db
//! rack in (a1, a2) or hostname = web-*
//! has label.gpu and product != "PowerEdge R640"
//! memory >= 64G and driver = mlx5_core and switch = leaf-3
//! all
//! ```
//!
//! | form | true where |
//! |---|---|
//! | `KEY = VALUE` | the value is that one; `*` in it stands for any text |
//! | `KEY != VALUE` | it is not, or nothing is known |
//! | `KEY in (VALUE, …)` | it is one of them |
//! | `NUMBER < VALUE`, and `<=`, `>`, `>=`, `=`, `!=` | `memory` in bytes (`64G` is 64 · 2^30) and `cpus` (threads) compare so |
//! | `has KEY` | something is known |
//! | `all` | always |
//! | `not X`, `X and Y`, `X or Y`, `(X)` | `not` binds closest, then `and`, then `or` |
//!
//! Letter case makes no difference in values of `mac`, `hostname`, `uuid`, `arch` and `firmware`. A value
//! that has more than letters, digits and `._:/@+*-` stands in double quotes, and so does one that is a
//! word of this language.

use super::parse::{self, SelectorError};
use crate::model::{ClientArch, Machine};
use std::{borrow::Cow, fmt, str::FromStr};

/// Keys that a selector may name, beside `label.NAME`.
pub const KEYS: &[&str] = &[
    "mac",
    "hostname",
    "rack",
    "arch",
    "firmware",
    "firmware-version",
    "vendor",
    "product",
    "serial",
    "uuid",
    "cpu",
    "cpus",
    "memory",
    "driver",
    "switch",
    "label.NAME",
];

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Any of its MACs.
    Mac,
    Hostname,
    Rack,
    /// As in `x86_64`.
    Arch,
    /// `bios` or `uefi`.
    Firmware,
    FirmwareVersion,
    /// SMBIOS manufacturer.
    Vendor,
    /// SMBIOS manufacturer and product.
    Product,
    Serial,
    Uuid,
    /// Its model.
    Cpu,
    /// Threads: a number.
    Cpus,
    /// Bytes: a number.
    Memory,
    /// Of any of its NICs.
    Driver,
    /// Name of the switch at any of its NICs.
    Switch,
    Label(String),
}

impl Key {
    pub(super) fn parse(word: &str) -> Option<Key> {
        Some(match word {
            "mac" => Key::Mac,
            "hostname" => Key::Hostname,
            "rack" => Key::Rack,
            "arch" => Key::Arch,
            "firmware" => Key::Firmware,
            "firmware-version" => Key::FirmwareVersion,
            "vendor" => Key::Vendor,
            "product" => Key::Product,
            "serial" => Key::Serial,
            "uuid" => Key::Uuid,
            "cpu" => Key::Cpu,
            "cpus" => Key::Cpus,
            "memory" => Key::Memory,
            "driver" => Key::Driver,
            "switch" => Key::Switch,
            _ => Key::Label(word.strip_prefix("label.").filter(|l| !l.is_empty())?.to_owned()),
        })
    }

    fn ignores_case(&self) -> bool {
        matches!(self, Key::Mac | Key::Hostname | Key::Uuid | Key::Arch | Key::Firmware)
    }

    /// True for a key whose values are compared as numbers.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Key::Cpus | Key::Memory)
    }

    /// The machine's number under this key, where it is known.
    fn number(&self, machine: &Machine) -> Option<u64> {
        let facts = machine.facts.as_ref()?;
        match self {
            Key::Cpus => facts.cpu.as_ref().map(|cpu| cpu.threads.into()),
            Key::Memory => facts.memory,
            _ => None,
        }
    }

    /// True where any value of the machine under this key passes.
    fn any(&self, machine: &Machine, passes: impl Fn(&str) -> bool) -> bool {
        let text = |value: &Option<String>| value.as_deref().is_some_and(&passes);
        let facts = machine.facts.as_deref();
        let nics = || facts.iter().flat_map(|f| &f.nics);
        match self {
            Key::Mac => {
                std::iter::once(&machine.mac).chain(&machine.other_macs).any(|mac| passes(&mac.to_string()))
            }
            Key::Hostname => text(&machine.hostname),
            Key::Rack => text(&machine.rack),
            Key::Arch => machine.arch.is_some_and(|arch| passes(&arch.to_string())),
            Key::Firmware => machine.firmware.is_some_and(|f| match f {
                ClientArch::Other(_) => false,
                f => passes(if f.is_bios() { "bios" } else { "uefi" }),
            }),
            Key::FirmwareVersion => facts.is_some_and(|f| text(&f.firmware.version)),
            Key::Vendor => facts.is_some_and(|f| text(&f.vendor)),
            Key::Cpu => facts.is_some_and(|f| f.cpu.as_ref().is_some_and(|cpu| text(&cpu.model))),
            Key::Cpus | Key::Memory => self.number(machine).is_some_and(|n| passes(&n.to_string())),
            Key::Driver => nics().any(|nic| text(&nic.driver)),
            Key::Switch => nics().any(|nic| nic.neighbour.as_ref().is_some_and(|n| text(&n.system))),
            Key::Product => text(&machine.product),
            Key::Serial => text(&machine.serial),
            Key::Uuid => {
                machine.uuid.as_deref().is_some_and(|uuid| spellings(uuid).iter().any(|s| passes(s)))
            }
            Key::Label(label) => machine.labels.get(label).is_some_and(|value| passes(value)),
        }
    }
}

/// How a UUID may be written: with or without hyphens, and with the bytes of its first three groups in
/// either order, for firmware is at odds on that.
fn spellings(uuid: &str) -> Vec<String> {
    let hex: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    if hex.len() != 32 {
        return vec![uuid.to_owned()];
    }
    let group = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    let plain = |group: &[char]| group.iter().collect::<String>();
    let turned = |group: &[char]| group.rchunks(2).flatten().collect::<String>();
    let first = [group(0, 8), group(8, 12), group(12, 16)];
    let rest = [plain(group(16, 20)), plain(group(20, 32))];
    let orders = [first.map(plain), first.map(turned)];
    let groups = orders.map(|order| [order.as_slice(), rest.as_slice()].concat());
    groups.iter().flat_map(|groups| [groups.join("-"), groups.concat()]).collect()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Key::Mac => "mac",
            Key::Hostname => "hostname",
            Key::Rack => "rack",
            Key::Arch => "arch",
            Key::Firmware => "firmware",
            Key::FirmwareVersion => "firmware-version",
            Key::Vendor => "vendor",
            Key::Product => "product",
            Key::Serial => "serial",
            Key::Uuid => "uuid",
            Key::Cpu => "cpu",
            Key::Cpus => "cpus",
            Key::Memory => "memory",
            Key::Driver => "driver",
            Key::Switch => "switch",
            Key::Label(label) => return write!(f, "label.{label}"),
        })
    }
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    fn holds(self, a: u64, b: u64) -> bool {
        match self {
            Relation::Equal => a == b,
            Relation::Less => a < b,
            Relation::LessOrEqual => a <= b,
            Relation::Greater => a > b,
            Relation::GreaterOrEqual => a >= b,
        }
    }
}

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    All,
    Has(Key),
    /// One value for `=`, several for `in`.
    Is(Key, Vec<String>),
    /// A number is in this relation to another one.
    Compare(Key, Relation, u64),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

impl Expr {
    fn picks(&self, machine: &Machine) -> bool {
        match self {
            Expr::All => true,
            Expr::Has(key) => key.any(machine, |_| true),
            Expr::Is(key, wanted) => key.any(machine, |value| {
                let fold = |text| if key.ignores_case() { lower(text) } else { Cow::Borrowed(text) };
                wanted.iter().any(|pattern| fits(&fold(pattern), &fold(value)))
            }),
            Expr::Compare(key, relation, n) => {
                key.number(machine).is_some_and(|have| relation.holds(have, *n))
            }
            Expr::Not(inner) => !inner.picks(machine),
            Expr::And(all) => all.iter().all(|e| e.picks(machine)),
            Expr::Or(any) => any.iter().any(|e| e.picks(machine)),
        }
    }

    fn specificity(&self) -> usize {
        match self {
            Expr::All => 0,
            Expr::Has(_) | Expr::Is(..) | Expr::Compare(..) => 1,
            Expr::Not(inner) => inner.specificity().min(1),
            Expr::And(all) => all.iter().map(Expr::specificity).sum(),
            Expr::Or(any) => any.iter().map(Expr::specificity).min().unwrap_or(0),
        }
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() }
}

/// True where `text` is `pattern`, whose `*` stand for any text. Linear but for the number of stars: the
/// last star takes as little as it can, and more only when what follows doesn't fit.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(c), _) if Some(c) == text.get(t) => (p, t) = (p + 1, t + 1),
            (_, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

/// An expression that picks machines, and its text as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    expr: Expr,
}

impl Selector {
    /// True for a machine that is meant.
    pub fn picks(&self, machine: &Machine) -> bool {
        self.expr.picks(machine)
    }

    /// How many conditions a machine meets at the least to be picked: of two selectors that pick a machine
    /// the one with more goes first.
    pub fn specificity(&self) -> usize {
        self.expr.specificity()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        Ok(Selector { expr: parse::parse(text)?, text: text.trim().to_owned() })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
