//! `pristine machine`.

use super::{
    Context, Failure, Outcome, changes,
    context::print,
    facts, fleet,
    rows::{self, Rows},
    table::Table,
    text,
    why::Why,
};
use crate::{
    client::ClientError,
    fleet::{ImportOrder, MachineRow},
    model::{Mac, Machine},
    provisioner::MachinePatch,
};
use clap::{Args, Subcommand};
use std::{collections::BTreeMap, path::PathBuf};

/// Machines: list, show, set, forget, import, export.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every machine that was seen or named
    List {
        /// Only those that this selector picks, as in 'rack=a1 and not label.role=db'
        #[arg(long, value_name = "SELECTOR")]
        select: Option<String>,
    },
    /// All that is known of one machine
    Show {
        /// MAC or hostname
        machine: String,
    },
    /// What it would get besides its image if it powered on now: files, users, kernel arguments
    Render {
        /// MAC or hostname
        machine: String,
    },
    /// Change what an operator may change; an empty text clears
    Set(Box<Set>),
    /// Name, describe and pin many machines from a file, all or none
    #[command(after_help = COLUMNS)]
    Import(Import),
    /// Machines as a file for import: CSV, or JSON with --json
    Export(Export),
    /// Forget a machine: its pin, labels and boots. It comes back when it next powers on
    Forget {
        /// MAC or hostname
        machine: String,
        #[command(flatten)]
        why: Why,
    },
}

/// What to import.
#[derive(Debug, Args)]
pub struct Import {
    /// CSV or JSON as `machine export` writes it; - for standard input
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Show each change, however many
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    why: Why,
}

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// Only machines that this selector picks, as in 'rack=a1'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    /// CSV, which it is without --json, too
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Write it here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What to change.
#[derive(Debug, Args)]
pub struct Set {
    /// MAC or hostname; a MAC that was never seen is put on record
    machine: String,
    /// Your name for it, unique
    #[arg(long)]
    hostname: Option<String>,
    /// Its rack
    #[arg(long)]
    rack: Option<String>,
    /// Boot program instead of its firmware's usual one, as in ipxe.efi
    #[arg(long, value_name = "FILE")]
    nbp: Option<String>,
    /// A label, as key=value (key= takes it away); repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Another MAC that is the same machine; repeatable, replaces those on record
    #[arg(long, value_name = "MAC")]
    other_mac: Vec<Mac>,
    #[command(flatten)]
    why: Why,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Command::List { select } => {
                let client = context.client()?;
                let machines = client.machines(select.as_deref())?;
                if context.json {
                    return context.show(&machines, String::new);
                }
                let tags = text::Tags::fetch(&client);
                match select {
                    Some(_) if machines.is_empty() => print("the selector picks no machine\n"),
                    _ => print(&list(&machines, &tags, text::now())),
                }
            }
            Command::Show { machine } => {
                let client = context.client()?;
                let machine = client.machine(&machine)?;
                context.show(&machine, || show(&machine, &text::Tags::fetch(&client), text::now()))
            }
            Command::Render { machine } => super::profile::render(context, &machine),
            Command::Set(set) => {
                let patch = set.patch()?;
                let machine = set.why.client(context)?.set_machine(&set.machine, &patch)?;
                context.show(&machine, || format!("{} is set\n", machine.name()))
            }
            Command::Import(import) => import.run(context),
            Command::Export(export) => export.run(context),
            Command::Forget { machine, why } => {
                why.client(context)?.forget(&machine)?;
                context.show(&serde_json::json!({ "forgotten": machine }), || {
                    format!("{machine} is forgotten\n")
                })
            }
        }
    }
}

const COLUMNS: &str = "\
Columns of a CSV file: mac (needed), hostname, rack, nbp, pin, other_macs (with blanks between), label.NAME
A column that is missing is left as it is, an empty field clears.";

impl Import {
    fn run(self, context: &Context) -> Outcome {
        let name = self.file.display();
        let wrong = |problems: Vec<String>| {
            let lines: Vec<String> = problems.iter().map(|p| format!("{name}:{p}")).collect();
            Failure::text(lines.join("\n") + "\n  nothing was changed")
        };
        let rows = Rows::read(&fleet::read(&self.file)?).map_err(wrong)?;
        let client = self.why.client(context)?;
        let order = ImportOrder { machines: rows.machines.clone(), dry_run: self.dry_run };
        let done = client.import_machines(&order).map_err(|e| match e {
            ClientError::Refused { body, .. } if !body.problems.is_empty() => {
                wrong(body.problems.iter().map(|p| rows.locate(p)).collect())
            }
            e => e.into(),
        })?;
        context.show(&done, || changes::shown(&done, &text::Tags::fetch(&client), self.all))
    }
}

impl Export {
    fn run(self, context: &Context) -> Outcome {
        let machines = context.client()?.machines(self.select.as_deref())?;
        let rows: Vec<MachineRow> = machines.iter().map(MachineRow::of).collect();
        let text = match context.json && !self.csv {
            true => serde_json::to_string_pretty(&rows)? + "\n",
            false => rows::to_csv(&rows),
        };
        match &self.output {
            None => print(&text),
            Some(path) => fleet::write(path, &text),
        }
    }
}

impl Set {
    fn patch(&self) -> Result<MachinePatch, Failure> {
        let clearing = |v: &Option<String>| v.clone().map(|v| (!v.is_empty()).then_some(v));
        let mut labels = BTreeMap::new();
        for label in &self.label {
            let (key, value) = label.split_once('=').ok_or_else(|| {
                Failure::Usage(format!(
                    "`{label}` is not a label: write --label key=value, or key= to take it away"
                ))
            })?;
            labels.insert(key.to_owned(), (!value.is_empty()).then(|| value.to_owned()));
        }
        let patch = MachinePatch {
            hostname: clearing(&self.hostname),
            rack: clearing(&self.rack),
            nbp: clearing(&self.nbp),
            other_macs: (!self.other_mac.is_empty()).then(|| self.other_mac.clone()),
            labels,
        };
        if patch == MachinePatch::default() {
            return Err(Failure::Usage(
                "nothing to set: name one of --hostname, --rack, --nbp, --label, --other-mac".into(),
            ));
        }
        Ok(patch)
    }
}

fn list(machines: &[Machine], tags: &text::Tags, now: i64) -> String {
    if machines.is_empty() {
        return "no machine was seen yet: power one on, or name one with `pristine machine set <mac> --hostname <name>`\n"
            .into();
    }
    let mut table = Table::new(&["MAC", "HOSTNAME", "RACK", "FIRMWARE", "PIN", "LAST HEALTHY", ">SEEN"]);
    for m in machines {
        table.row([
            m.mac.to_string(),
            m.hostname.clone().unwrap_or_else(|| "-".into()),
            m.rack.clone().unwrap_or_else(|| "-".into()),
            m.firmware.map_or_else(|| "-".into(), text::firmware),
            m.pin.as_ref().map_or_else(|| "-".into(), |p| tags.target(p)),
            m.last_healthy.map_or_else(|| "-".into(), |d| tags.image(d)),
            if m.was_seen() { text::ago(now - m.last_seen) } else { "never".into() },
        ]);
    }
    table.render()
}

fn show(m: &Machine, tags: &text::Tags, now: i64) -> String {
    let dash = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
    let labels: Vec<String> = m.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let others: Vec<String> = m.other_macs.iter().map(Mac::to_string).collect();
    let join = |v: Vec<String>| if v.is_empty() { "-".to_owned() } else { v.join(", ") };
    let last_seen = match m.was_seen() {
        true => format!("{} ({} ago)", text::time(m.last_seen), text::ago(now - m.last_seen)),
        false => "never".to_owned(),
    };
    let mut rows = vec![
        ("MAC", m.mac.to_string()),
        ("other MACs", join(others)),
        ("hostname", dash(&m.hostname)),
        ("rack", dash(&m.rack)),
        ("labels", join(labels)),
        ("product", dash(&m.product)),
        ("serial", dash(&m.serial)),
        ("UUID", dash(&m.uuid)),
        ("firmware", m.firmware.map_or_else(|| "-".into(), text::firmware)),
        ("arch", m.arch.map_or_else(|| "-".into(), |a| a.to_string())),
        ("NBP", m.nbp.clone().unwrap_or_else(|| "by firmware".into())),
        ("power", m.power.to_string()),
        ("power fault", m.power_fault.as_ref().map_or_else(|| "-".into(), |f| super::power::fault(f, now))),
        ("reboot", m.reboot.as_ref().map_or_else(|| "-".into(), |r| super::power::reboot(r, now))),
        ("pin", m.pin.as_ref().map_or_else(|| "none: the site's default".into(), |p| tags.target(p))),
        ("running", m.running.map_or_else(|| "-".into(), |d| tags.image(d))),
        ("last healthy", m.last_healthy.map_or_else(|| "-".into(), |d| tags.image(d))),
        ("first seen", if m.was_seen() { text::time(m.first_seen) } else { "never".into() }),
        ("last seen", last_seen),
    ];
    rows.extend(m.facts.iter().flat_map(|f| facts::rows(f, now)));
    text::pairs(&rows)
}
