//! `pristine pin`, `pristine unpin`, `pristine default`: what machines boot.

use super::{Context, Outcome, text, why::Why};
use crate::{model::wire::Assigned, provisioner::Explanation};
use clap::Args;

/// Pin a machine to an image; it boots it from its next power-on.
#[derive(Debug, Args)]
pub struct Pin {
    /// MAC or hostname; a MAC that was never seen is put on record
    machine: String,
    /// name:version or a digest; or local (its own disk), ignore (not booted), discover (waits for an operator)
    image: String,
    #[command(flatten)]
    why: Why,
}

/// Take a machine's pin away: it gets what the site's rules and default say again.
#[derive(Debug, Args)]
pub struct Unpin {
    /// MAC or hostname
    machine: String,
    #[command(flatten)]
    why: Why,
}

/// Have a machine that fell back to its last good image try again what the rules say.
#[derive(Debug, Args)]
pub struct Retry {
    /// MAC or hostname
    #[arg(required_unless_present = "select")]
    machine: Option<String>,
    /// Every machine that this selector picks, as in 'rack=a1'
    #[arg(long, conflicts_with = "machine", value_name = "SELECTOR")]
    select: Option<String>,
    #[command(flatten)]
    why: Why,
}

/// Show or set what machines boot that have no pin and that no rule picks.
#[derive(Debug, Args)]
pub struct Default {
    /// name:version or a digest; or local (their own disk), ignore (not booted), discover (wait for an operator). Shows the default where left out
    image: Option<String>,
    /// Have no default
    #[arg(long, conflicts_with = "image")]
    clear: bool,
    #[command(flatten)]
    why: Why,
}

impl Pin {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let now = self.why.client(context)?.pin(&self.machine, &self.image)?;
        context.show(&now, || {
            let unseen = if now.seen { "" } else { "; it was not seen yet" };
            format!(
                "{} is pinned to {}, from its next power-on{unseen}\n{}",
                self.machine,
                gets(&now),
                doubt(&now)
            )
        })
    }
}

impl Retry {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = self.why.client(context)?;
        let keys = match (&self.machine, &self.select) {
            (Some(machine), _) => vec![machine.clone()],
            (None, select) => {
                let all = client.machines(select.as_deref())?;
                all.iter().filter(|m| !m.failing.is_empty()).map(|m| m.mac.to_string()).collect()
            }
        };
        let mut all = Vec::new();
        for key in &keys {
            all.push(client.retry(key)?);
        }
        context.show(&all, || match all.as_slice() {
            [] => "no image failed on any of these machines\n".to_owned(),
            all => {
                let line = |now: &Explanation| {
                    format!(
                        "{} gets {} from its next power-on\n{}",
                        now.machine.name(),
                        gets(now),
                        doubt(now)
                    )
                };
                all.iter().map(line).collect()
            }
        })
    }
}

impl Unpin {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let now = self.why.client(context)?.unpin(&self.machine)?;
        context.show(&now, || {
            format!(
                "{} has no pin any more: it gets {} from its next power-on\n{}",
                self.machine,
                gets(&now),
                doubt(&now)
            )
        })
    }
}

fn gets(now: &Explanation) -> String {
    words(&Assigned { target: Some(now.target.clone()), image: now.image.clone() })
}

fn doubt(now: &Explanation) -> String {
    now.refused.as_ref().map_or_else(String::new, |why| format!("warning: {}\n", text::clean(why)))
}

impl Default {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = self.why.client(context)?;
        if self.clear {
            client.clear_default()?;
            return context.show(&Assigned::default(), || "there is no default any more\n".to_owned());
        }
        match self.image {
            Some(image) => {
                let assigned = client.set_default(&image)?;
                context.show(&assigned, || {
                    format!(
                        "machines without a pin that no rule picks boot {}, from their next power-on\n",
                        words(&assigned)
                    )
                })
            }
            None => {
                let assigned = client.default_target()?;
                context.show(&assigned, || words(&assigned) + "\n")
            }
        }
    }
}

/// What is assigned, with tag and digest.
pub(super) fn words(assigned: &Assigned) -> String {
    use crate::model::BootTarget;
    match (&assigned.target, &assigned.image) {
        (None, _) => "none".to_owned(),
        (Some(BootTarget::Image { digest }), Some(tag)) => format!("{tag} ({})", digest.short()),
        (Some(target), _) => text::clean(&target.to_string()),
    }
}
