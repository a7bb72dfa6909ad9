//! `pristine explain`: what a machine would get now, by which rule, and why not by the others.

use super::{Context, Outcome, text};
use crate::{
    model::{BootTarget, Rule, wire::Assigned},
    provisioner::Explanation,
};
use clap::Args;

/// What a machine would get if it powered on now, and why.
#[derive(Debug, Args)]
pub struct Explain {
    /// MAC or hostname; a MAC that was never seen may be asked as well
    machine: String,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = context.client()?;
        let explanation = client.explain(&self.machine)?;
        let default = client.default_target()?;
        context.show(&explanation, || words(&explanation, &default))
    }
}

/// A rule as the documentation calls it.
pub(super) fn rule_name(rule: &Rule) -> &'static str {
    match rule {
        Rule::Pin => "pin",
        Rule::Rollout => "rollout",
        Rule::Selector => "rule",
        Rule::Default => "default",
        Rule::Fallback => "fallback",
        Rule::Unknown => "unknown",
    }
}

fn words(e: &Explanation, default: &Assigned) -> String {
    let target = match (&e.target, &e.image) {
        (BootTarget::Image { digest }, Some(tag)) => format!("{tag} ({})", digest.short()),
        (target, _) => target.to_string(),
    };
    let m = &e.machine;
    let mut out = format!("{} would get: {target}\n", m.name());
    if let Some(refused) = &e.refused {
        out.push_str(&format!("but it would not boot it: {}\n", text::clean(refused)));
    }
    out.push_str(&format!("{}\n\nrules, first that applies wins:\n", text::clean(&e.why)));
    let used = |rule: &Rule| if e.rule == *rule { "->" } else { "  " };
    if e.rule == Rule::Fallback {
        out.push_str(&format!(
            "-> fallback what the rules say failed too often (`pristine retry {}` tries it again)\n",
            m.name()
        ));
    }
    // What the rules say, be it what the machine gets or not.
    let by = e.instead_of.as_ref().map_or(&e.rule, |i| &i.rule);
    let says = match &e.instead_of {
        Some(instead) => format!("image {}", instead.image.short()),
        None => short(&e.target),
    };
    let pin = match &m.pin {
        Some(pin) => format!("pinned to {}", short(pin)),
        None => "doesn't apply: it has no pin".to_owned(),
    };
    let before = || format!("not asked: the {} goes before it", rule_name(by));
    let selector = match by {
        Rule::Pin | Rule::Rollout => before(),
        Rule::Selector => format!("a selector rule says {says}"),
        _ => "doesn't apply: none picks this machine (`pristine rule list`)".to_owned(),
    };
    let rollout = match (by, &m.moved) {
        (Rule::Pin, _) => before(),
        (_, Some(moved)) => format!("{} moved it to {}", moved.rollout, short(&moved.target)),
        (_, None) => "doesn't apply: none moved it".to_owned(),
    };
    let has_default = default.target.is_some();
    let default = match (&default.target, by) {
        (_, Rule::Pin | Rule::Rollout | Rule::Selector) => before(),
        (None, _) => "doesn't apply: there is none (`pristine default <image>` sets one)".to_owned(),
        (Some(target), Rule::Default) => format!("the site's default is {}", short(target)),
        (Some(target), Rule::Unknown | Rule::Fallback) => {
            format!("not asked, though it is {}: no operator has touched this machine", short(target))
        }
    };
    let unknown = match by {
        Rule::Pin | Rule::Rollout | Rule::Selector => before(),
        Rule::Default | Rule::Fallback => "doesn't apply: the default says what it gets".to_owned(),
        Rule::Unknown if has_default || e.target != BootTarget::Discover => {
            format!("`unknown` of the configuration says {}", short(&e.target))
        }
        Rule::Unknown => format!("{}: nothing says otherwise", short(&e.target)),
    };
    let mut rules = [
        (Rule::Pin, pin),
        (Rule::Rollout, rollout),
        (Rule::Selector, selector),
        (Rule::Default, default),
        (Rule::Unknown, unknown),
    ];
    if e.rule == Rule::Unknown && has_default {
        // What the configuration says of strangers goes before the default.
        rules.swap(3, 4);
    }
    for (rule, why) in rules {
        out.push_str(&format!("{} {:<8} {why}\n", used(&rule), rule_name(&rule)));
    }
    let dash = || "-".to_owned();
    let leases: Vec<String> = e.leases.iter().map(|l| l.addr.to_string()).collect();
    out.push('\n');
    out.push_str(&text::pairs(&[
        ("seen", if e.seen { format!("last at {}", text::time(m.last_seen)) } else { "never".into() }),
        ("firmware", e.firmware.map_or_else(|| "not known yet".into(), text::firmware)),
        ("NBP", e.nbp.clone().unwrap_or_else(dash)),
        ("profiles", if e.profiles.is_empty() { dash() } else { e.profiles.join(", ") }),
        ("addresses", if leases.is_empty() { dash() } else { leases.join(", ") }),
    ]));
    out
}

fn short(target: &BootTarget) -> String {
    target.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::{Mac, Machine};

    #[test]
    fn names_the_rule_and_why_the_others_do_not_apply() {
        let machine = Machine::new(Mac([0x52, 0x54, 0, 0, 0, 1]), 0);
        let e = Explanation {
            machine,
            seen: false,
            target: BootTarget::Discover,
            rule: Rule::Unknown,
            image: None,
            why: "it has no pin, no rule picks it, and the site has no default".into(),
            instead_of: None,
            refused: None,
            firmware: None,
            nbp: None,
            profiles: Vec::new(),
            leases: Vec::new(),
        };
        let default = Assigned { target: Some(BootTarget::Local), image: None };
        let shown = words(&e, &default);
        let ruled = shown.split("first that applies wins:\n").nth(1).unwrap();
        let order: Vec<_> = ruled.lines().take(5).map(|l| l[3..11].trim_end()).collect();
        assert_eq!(
            order,
            ["pin", "rollout", "rule", "unknown", "default"],
            "the one that wins before the one that it beats"
        );
        assert_eq!(
            words(&e, &Assigned::default()),
            "52:54:00:00:00:01 would get: discover\n\
             it has no pin, no rule picks it, and the site has no default\n\
             \n\
             rules, first that applies wins:\n   \
             pin      doesn't apply: it has no pin\n   \
             rollout  doesn't apply: none moved it\n   \
             rule     doesn't apply: none picks this machine (`pristine rule list`)\n   \
             default  doesn't apply: there is none (`pristine default <image>` sets one)\n\
             -> unknown  discover: nothing says otherwise\n\
             \n\
             seen       never\n\
             firmware   not known yet\n\
             NBP        -\n\
             profiles   -\n\
             addresses  -\n"
        );
        let shown = words(&Explanation { rule: Rule::Selector, ..e }, &default);
        assert_eq!(shown.matches("not asked: the rule goes before it").count(), 2, "{shown}");
    }
}
