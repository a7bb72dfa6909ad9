//! `pristine rollout`: moving machines to another image in waves.

use super::{Context, Failure, Outcome, table::Table, text, why::Why};
use crate::{
    dhcp::Seconds,
    fleet::window_words,
    model::{
        Limits, OnFailure, Phase, RolloutState,
        wire::{RolloutOrder, RolloutView, StartRollout},
    },
};
use clap::{Args, Subcommand};

/// Rollouts: machines move to another image in waves, each gated on health.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start one: the first wave is re-pointed at once and moves with its machines' next power-on
    Start(Start),
    /// Every rollout, the newest first
    List,
    /// How far one is, wave by wave, and who failed
    Show {
        /// Its name
        name: String,
    },
    /// Move no more machines for now; those that were moved are still followed
    Pause {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Go on with one that is paused or halted
    Resume {
        /// Its name
        name: String,
        /// Machines that may fail from now on, with those that did
        #[arg(long, value_name = "N")]
        max_failed: Option<u32>,
        #[command(flatten)]
        why: Why,
    },
    /// Begin the next wave now, whatever this one still waits for
    Promote {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// End it; what was moved stays moved
    Abort {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// End it, and give back what they had to all machines that it moved
    Rollback {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Remove one that is over: the machines that it moved boot what pins, rules and default say again
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

/// What to start.
#[derive(Debug, Args)]
pub struct Start {
    /// Which machines, as in 'rack in (a1, a2)'; those with a pin are left out
    #[arg(long, value_name = "SELECTOR")]
    select: String,
    /// The image: name:version or a digest
    #[arg(long, value_name = "IMAGE")]
    to: String,
    /// Its name [default: the image's, as in web-2]
    #[arg(long)]
    name: Option<String>,
    /// Size of a wave, in order: a number of machines, a part of all as in 10%, or rest
    #[arg(long = "wave", value_name = "SIZE", default_values_t = ["1".to_owned(), "10%".to_owned(), "rest".to_owned()])]
    waves: Vec<String>,
    /// Machines that may fail; with one more it halts, or is rolled back
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_failed: u32,
    /// Give back what they had to all machines when too many fail, instead of halting
    #[arg(long)]
    roll_back: bool,
    /// Machines that are moved and not healthy yet, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Option<u32>,
    /// The same in one rack
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight_per_rack: Option<u32>,
    /// Longest time from a machine's first boot of the image to healthy
    #[arg(long, value_name = "TIME", default_value = "30m")]
    deadline: String,
    /// How long it must then stay healthy
    #[arg(long, value_name = "TIME", default_value = "5m")]
    soak: String,
    /// When machines may be moved, in UTC, as in 'mon-fri 22:00-04:00'; can be given several times
    #[arg(long = "window", value_name = "WINDOW")]
    windows: Vec<String>,
    /// Wait for `pristine rollout promote` after each wave
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    why: Why,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let order = |why: Why, name: &str, order| {
            why.client(context)?.order_rollout(name, order).map_err(Failure::from)
        };
        let view = match self {
            Command::List => {
                let all = context.client()?.rollouts()?;
                return context.show(&all, || list(&all));
            }
            Command::Rm { name, why } => {
                why.client(context)?.remove_rollout(&name)?;
                let value = serde_json::json!({ "removed": name });
                return context.show(&value, || {
                    format!("rollout {name} is removed; its machines boot what pins, rules and default say\n")
                });
            }
            Command::Start(start) => start.why.client(context)?.start_rollout(&start.order()?)?,
            Command::Show { name } => context.client()?.rollout(&name)?,
            Command::Pause { name, why } => order(why, &name, RolloutOrder::Pause)?,
            Command::Resume { name, max_failed, why } => {
                order(why, &name, RolloutOrder::Resume { max_failed })?
            }
            Command::Promote { name, why } => order(why, &name, RolloutOrder::Promote)?,
            Command::Abort { name, why } => order(why, &name, RolloutOrder::Abort)?,
            Command::Rollback { name, why } => order(why, &name, RolloutOrder::RollBack)?,
        };
        context.show(&view, || show(&view))
    }
}

impl Start {
    fn order(self) -> Result<StartRollout, Failure> {
        let seconds = |flag: &str, text: &str| {
            text.parse::<Seconds>().map(|s| s.0).map_err(|e| Failure::Usage(format!("--{flag}: {e}")))
        };
        Ok(StartRollout {
            name: self.name,
            selector: self.select,
            to: self.to,
            waves: self.waves,
            limits: Limits {
                max_failed: self.max_failed,
                in_flight: self.in_flight.unwrap_or(0),
                in_flight_per_rack: self.in_flight_per_rack.unwrap_or(0),
                deadline_seconds: seconds("deadline", &self.deadline)?,
                soak_seconds: seconds("soak", &self.soak)?,
            },
            windows: self.windows,
            hold: self.hold,
            on_failure: if self.roll_back { OnFailure::RollBack } else { OnFailure::Halt },
        })
    }
}

fn image(view: &RolloutView) -> String {
    view.image.as_ref().map_or_else(|| view.rollout.to.short(), ToString::to_string)
}

/// Machines in one of these phases, in all waves.
fn count(view: &RolloutView, phases: &[Phase]) -> u32 {
    view.phases.iter().flatten().filter(|(phase, _)| phases.contains(phase)).map(|(_, n)| n).sum()
}

fn list(all: &[RolloutView]) -> String {
    if all.is_empty() {
        return "no rollouts: `pristine rollout start --select 'rack=a1' --to web:2` starts one\n".into();
    }
    let mut table = Table::new(&["ROLLOUT", "IMAGE", "STATE", "WAVE", ">DONE", ">FAILED", ">OF", "STARTED"]);
    for view in all {
        let r = &view.rollout;
        table.row([
            r.name.clone(),
            image(view),
            r.state.to_string(),
            format!("{} of {}", r.wave + 1, r.waves.len()),
            count(view, &[Phase::Done]).to_string(),
            count(view, &[Phase::Failed]).to_string(),
            count(view, &Phase::ALL).to_string(),
            format!("{} ago", text::ago(text::now() - r.created)),
        ]);
    }
    table.render()
}

fn show(view: &RolloutView) -> String {
    let r = &view.rollout;
    let limits = &r.limits;
    let or_all = |n: u32| if n == 0 { "no limit".to_owned() } else { n.to_string() };
    let windows: Vec<String> = r.windows.iter().map(|w| window_words(*w)).collect();
    let mut out = format!("rollout {} to {}: {} ({})\n\n", r.name, image(view), r.state, text::clean(&r.why));
    out.push_str(&text::pairs(&[
        ("machines", text::clean(&r.selector)),
        ("may fail", format!("{} machines, then {}", limits.max_failed, after(r.on_failure))),
        (
            "in flight",
            format!("{}; in one rack {}", or_all(limits.in_flight), or_all(limits.in_flight_per_rack)),
        ),
        ("healthy", format!("within {} s, and for {} s", limits.deadline_seconds, limits.soak_seconds)),
        ("window", if windows.is_empty() { "at any time".to_owned() } else { windows.join("; ") + " (UTC)" }),
    ]));
    out.push('\n');
    let mut table = Table::new(&[
        "WAVE",
        ">WAITING",
        ">MOVED",
        ">BOOTING",
        ">SOAKING",
        ">DONE",
        ">FAILED",
        ">RETURNED",
        ">LEFT",
    ]);
    for (n, wave) in view.phases.iter().enumerate() {
        let here = r.state.is_open() && usize::try_from(r.wave).is_ok_and(|w| w == n);
        let mut row = vec![format!("{}{}", n + 1, if here { " <" } else { "" })];
        row.extend(Phase::ALL.iter().map(|p| wave.get(p).copied().unwrap_or(0).to_string()));
        table.row(row);
    }
    out.push_str(&table.render());
    for trouble in &view.troubles {
        let name = trouble.hostname.clone().unwrap_or_else(|| trouble.mac.to_string());
        out.push_str(&format!("\n{name} {}: {}", trouble.phase, text::clean(&trouble.reason)));
    }
    if !view.troubles.is_empty() {
        out.push('\n');
    }
    if r.state == RolloutState::Done {
        out.push_str(&format!(
            "\nto make it the rule: `pristine default {0}` or `pristine rule set … {0}`, then `pristine rollout rm {1}`\n",
            image(view),
            r.name
        ));
    }
    out
}

fn after(on_failure: OnFailure) -> &'static str {
    match on_failure {
        OnFailure::Halt => "it halts",
        OnFailure::RollBack => "all get back what they had",
    }
}
