//! `pristine image preset`: the systems that an import knows.

use crate::{
    cli::{Context, Failure, Outcome, table::Table, text},
    image::preset::{PRESETS, Preset, Root, named, names},
    model::nearest,
};
use clap::Subcommand;
use serde_json::{Value, json};

/// Systems that `image import --preset` and `--live` know.
#[derive(Debug, Subcommand)]
pub enum Presets {
    /// Every preset
    List,
    /// One preset: files, command line, what is verified, where it is from
    Show {
        /// Its name, as `list` shows it
        name: String,
    },
}

/// The preset of that name, or an error with the nearest.
pub(super) fn by_name(name: &str) -> Result<&'static Preset, Failure> {
    named(name).ok_or_else(|| {
        let name: String = name.chars().take(60).collect();
        let all = names().collect::<Vec<_>>().join(", ");
        Failure::text(match nearest(&name, names()) {
            Some(near) => format!("there is no preset `{name}`: did you mean {near}? There are {all}"),
            None => format!("there is no preset `{name}`: there are {all}"),
        })
    })
}

impl Presets {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Presets::List => {
                let value: Vec<Value> = PRESETS.iter().map(as_json).collect();
                context.show(&value, || {
                    let mut table = Table::new(&["PRESET", "WHAT"]);
                    PRESETS.iter().for_each(|p| table.row([p.name, p.about]));
                    table.render()
                })
            }
            Presets::Show { name } => {
                let preset = by_name(&name)?;
                context.show(&as_json(preset), || describe(preset))
            }
        }
    }
}

fn as_json(preset: &Preset) -> Value {
    let layouts: Vec<Value> = preset
        .layouts
        .iter()
        .map(|l| {
            let root = match l.rootfs {
                Root::None => None,
                Root::File(pattern) => Some(pattern),
                Root::Iso(_) if l.iso => Some("the ISO itself"),
                Root::Iso(pattern) => Some(pattern),
            };
            json!({ "iso": l.iso, "kernel": l.kernel, "initramfs": l.initramfs, "rootfs": root })
        })
        .collect();
    json!({ "name": preset.name, "about": preset.about, "cmdline": preset.cmdline, "layouts": layouts,
        "verifies": preset.verifies, "notes": preset.notes, "sources": preset.sources })
}

fn describe(preset: &Preset) -> String {
    let mut pairs = vec![
        ("preset", preset.name.to_owned()),
        ("what", preset.about.to_owned()),
        ("cmdline", preset.cmdline.to_owned()),
    ];
    for layout in preset.layouts {
        let (key, patterns) = (if layout.iso { "in an ISO" } else { "in a folder" }, layout.patterns());
        pairs.push((key, patterns.join(", ")));
    }
    pairs.push(("verified", format!("on the machine, by itself: {}", preset.verifies)));
    pairs.extend(preset.notes.iter().map(|note| ("note", (*note).to_owned())));
    pairs.extend(preset.sources.iter().map(|source| ("source", (*source).to_owned())));
    text::pairs(&pairs)
}
