//! The live timeline on the terminal.

use super::follow::OnEvent;
use crate::model::Mac;
use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Instant,
};

/// Prints what happens, with the time since it began; machines by name. Clones share names.
#[derive(Clone, Debug)]
pub struct Timeline {
    began: Instant,
    names: Arc<Mutex<BTreeMap<Mac, String>>>,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline { began: Instant::now(), names: Arc::default() }
    }
}

impl Timeline {
    /// Says what a machine is called.
    pub fn name(&self, mac: Mac, name: &str) {
        self.names.lock().unwrap_or_else(|e| e.into_inner()).insert(mac, name.to_owned());
    }

    /// Prints a line of its own.
    pub fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        // A closed terminal is no reason to leave machines behind.
        let _ = writeln!(std::io::stdout().lock(), "{seconds:7.1} s  {text}");
    }

    /// What prints each stage of each boot.
    pub fn printer(&self) -> OnEvent {
        let timeline = self.clone();
        Box::new(move |attempt, stage| {
            let names = timeline.names.lock().unwrap_or_else(|e| e.into_inner());
            let name = names.get(&attempt.mac).cloned().unwrap_or_else(|| attempt.mac.to_string());
            drop(names);
            let (what, detail) = match stage {
                Some(stage) => (stage.stage.to_string(), stage.detail.clone().unwrap_or_default()),
                None => (attempt.outcome().to_uppercase(), String::new()),
            };
            timeline.say(format!("  {name:<12} {what:<12} {detail}").trim_end());
        })
    }
}
