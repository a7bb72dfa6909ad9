//! `pristine rule`: what the machines that a selector picks boot.

use super::{Context, Outcome, pin::words, table::Table, text, why::Why};
use crate::{
    fleet::KEYS,
    model::{
        BootTarget,
        wire::{Assigned, RuleView},
    },
};
use clap::{Args, Subcommand};

/// Selector rules: between a machine's pin and the site's default.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every rule, in the order in which they are asked: most conditions first, then the oldest
    List,
    /// Set a rule, or replace the one of that name
    #[command(after_help = selectors())]
    Set(Set),
    /// Remove a rule: its machines get what the next rule or the default says
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

fn selectors() -> String {
    format!(
        "\
Selectors:
  rack = a1 and arch = x86_64 and not label.role = db
  rack in (a1, a2) or hostname = web-*
  has label.gpu and product = \"*PowerEdge R6*\"
  all
Keys: {} (firmware is bios or uefi)",
        KEYS.join(", ")
    )
}

/// What to set.
#[derive(Debug, Args)]
pub struct Set {
    /// Name of the rule
    name: String,
    /// Which machines, as in 'rack=a1 and not label.role=db'
    #[arg(long, value_name = "SELECTOR")]
    select: String,
    /// name:version or a digest; or local, ignore, discover
    image: String,
    #[command(flatten)]
    why: Why,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Command::List => {
                let rules = context.client()?.rules()?;
                context.show(&rules, || list(&rules))
            }
            Command::Set(set) => {
                let rule = set.why.client(context)?.set_rule(&set.name, &set.select, &set.image)?;
                context.show(&rule, || said(&rule))
            }
            Command::Rm { name, why } => {
                why.client(context)?.remove_rule(&name)?;
                context.show(&serde_json::json!({ "removed": name }), || format!("rule {name} is removed\n"))
            }
        }
    }
}

fn target(view: &RuleView) -> String {
    words(&Assigned { target: Some(view.rule.target.clone()), image: view.image.clone() })
}

fn said(view: &RuleView) -> String {
    let now = match view.machines {
        0 => "no machine boots by it now".to_owned(),
        1 => "1 machine boots by it, from its next power-on".to_owned(),
        n => format!("{n} machines boot by it, from their next power-on"),
    };
    format!("rule {}: machines with {} boot {}; {now}\n", view.rule.name, view.rule.selector, target(view))
}

fn list(rules: &[RuleView]) -> String {
    if rules.is_empty() {
        return "no rules: `pristine rule set NAME --select 'rack=a1' web:2` makes one\n".into();
    }
    let mut table = Table::new(&["RULE", "BOOTS", ">MACHINES", "SELECTOR"]);
    for view in rules {
        let target = match (&view.rule.target, &view.image) {
            (BootTarget::Image { .. }, Some(tag)) => tag.to_string(),
            (target, _) => text::clean(&target.to_string()),
        };
        table.row([view.rule.name.clone(), target, view.machines.to_string(), view.rule.selector.clone()]);
    }
    table.render()
}
