//! `pristine profile`: what machines get besides their image.

use super::{Context, Outcome, context::print, fleet, table::Table, text, why::Why};
use crate::model::{
    UserConfig, VolumeConfig,
    wire::{ConfigView, ProfileView},
};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Profiles: host names, users, files, networks, kernel arguments for the machines that a selector picks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every profile, the one that counts most first: most conditions, then the oldest
    List,
    /// Print a profile's document
    Show {
        /// Its name
        name: String,
    },
    /// Set a profile, or replace the one of that name
    Set(Set),
    /// Remove a profile: its machines do without it from their next boot
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

/// What to set.
#[derive(Debug, Args)]
pub struct Set {
    /// Name of the profile
    name: String,
    /// Which machines, as in 'rack=a1 and not label.role=db'
    #[arg(long, value_name = "SELECTOR")]
    select: String,
    /// The document (TOML, docs/machine-configuration.md); - for standard input
    file: PathBuf,
    #[command(flatten)]
    why: Why,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Command::List => {
                let profiles = context.client()?.profiles()?;
                context.show(&profiles, || list(&profiles))
            }
            Command::Show { name } => {
                let profile = context.client()?.profile(&name)?;
                let document = profile.document.clone().unwrap_or_default();
                context.show(&profile, || document)
            }
            Command::Set(set) => {
                let document = fleet::read(&set.file)?;
                let profile = set.why.client(context)?.set_profile(&set.name, &set.select, &document)?;
                context.show(&profile, || said(&profile))
            }
            Command::Rm { name, why } => {
                why.client(context)?.remove_profile(&name)?;
                context
                    .show(&serde_json::json!({ "removed": name }), || format!("profile {name} is removed\n"))
            }
        }
    }
}

fn said(profile: &ProfileView) -> String {
    let (name, selector) = (&profile.name, &profile.selector);
    let now = match profile.machines {
        0 => "it picks no machine now".to_owned(),
        1 => "1 machine gets it, from its next boot".to_owned(),
        n => format!("{n} machines get it, from their next boot"),
    };
    format!("profile {name}: for machines with {selector}; {now}\n")
}

fn list(profiles: &[ProfileView]) -> String {
    if profiles.is_empty() {
        return "no profiles: `pristine profile set NAME --select 'rack=a1' FILE.toml` makes one\n".into();
    }
    let mut table = Table::new(&["PROFILE", ">MACHINES", ">BYTES", "CHANGED", "SELECTOR"]);
    for p in profiles {
        let (machines, bytes) = (p.machines.to_string(), p.bytes.to_string());
        table.row([p.name.clone(), machines, bytes, text::time(p.changed), p.selector.clone()]);
    }
    table.render()
}

/// `pristine machine render`.
pub(super) fn render(context: &Context, machine: &str) -> Outcome {
    let view = context.client()?.render(machine)?;
    if context.json {
        return context.show(&view, String::new);
    }
    print(&rendered(&view))
}

fn rendered(view: &ConfigView) -> String {
    let Some(digest) = view.digest else {
        return format!("{} boots {} and no profile picks it\n", view.mac, view.image);
    };
    let config = &view.config;
    let mut out = format!("{} boots {} with configuration {}\n", view.mac, view.image, digest.short());
    out.push_str(&format!("made of {}, the first counts most\n", view.profiles.join(", ")));
    if let Some(why) = &view.left_out {
        out.push_str(&format!("but {}\n", text::clean(why)));
    }
    if let Some(hostname) = &config.hostname {
        out.push_str(&format!("\nhost name: {hostname}\n"));
    }
    if !config.kernel_args.is_empty() {
        out.push_str(&format!("\nkernel arguments: {}\n", text::clean(&config.kernel_args.join(" "))));
    }
    for volume in &config.volumes {
        out.push_str(&format!("\nvolume {}\n{}", volume.mount, volume_lines(volume)));
    }
    for group in &config.groups {
        out.push_str(&format!("\ngroup {}{}\n", group.name, number(group.gid)));
    }
    for user in &config.users {
        out.push_str(&format!("\nuser {}{}\n{}", user.name, number(user.uid), user_lines(user)));
    }
    for file in &config.files {
        out.push_str(&format!("\n{} ({:04o} {}:{})\n", file.path, file.mode, file.owner, file.group));
        for line in file.content.lines() {
            out.push_str(&format!("    {}\n", text::clean(line)));
        }
    }
    out
}

fn volume_lines(volume: &VolumeConfig) -> String {
    let gib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut lines = vec![format!("    {} with label {}", volume.filesystem, text::clean(&volume.label))];
    let given = [
        ("disk at", volume.path.clone()),
        ("disk with serial number", volume.serial.clone()),
        ("disk of at least", volume.min_size.map(gib)),
        ("disk of at most", volume.max_size.map(gib)),
        ("options", Some(volume.options.join(", ")).filter(|o| !o.is_empty())),
    ];
    lines.extend(
        given.into_iter().filter_map(|(what, value)| Some(format!("    {what} {}", text::clean(&value?)))),
    );
    lines.push(format!(
        "    {}",
        if volume.format { "made where its disk is blank" } else { "never made, only mounted" }
    ));
    lines.join("\n") + "\n"
}

fn number(id: Option<u32>) -> String {
    id.map(|id| format!(" ({id})")).unwrap_or_default()
}

fn user_lines(user: &UserConfig) -> String {
    let mut lines = Vec::new();
    let mut line = |what: &str, value: Option<&str>| {
        if let Some(value) = value {
            lines.push(format!("    {what}: {}\n", text::clean(value)));
        }
    };
    line("group", user.group.as_deref());
    line("groups", Some(user.groups.join(", ").as_str()).filter(|g| !g.is_empty()));
    line("home", user.home.as_deref());
    line("shell", user.shell.as_deref());
    line("password", user.password_hash.as_deref().map(|_| "by its hash"));
    for key in user.ssh_keys.iter().flatten() {
        line("SSH key", Some(key));
    }
    lines.concat()
}
