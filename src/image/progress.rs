//! How far a long step is: a bar on a terminal, a line a step elsewhere.

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::IsTerminal as _, time::Instant};

/// Someone who wants to know.
pub trait Progress {
    /// A step begins that handles `bytes` bytes.
    fn begin(&self, step: &str, bytes: u64) -> Box<dyn Step>;
}

/// A step under way; dropping it without [`Step::done`] means that it failed.
pub trait Step {
    /// So many bytes more.
    fn advance(&self, bytes: u64);
    /// It ended well.
    fn done(&self);
}

/// Tells nobody.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str, _bytes: u64) -> Box<dyn Step> {
        Box::new(Silent)
    }
}

impl Step for Silent {
    fn advance(&self, _bytes: u64) {}
    fn done(&self) {}
}

/// On standard error: a bar where that is a terminal, else a line when a step is done.
#[derive(Debug)]
pub struct OnStderr;

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    name: String,
    bytes: u64,
    began: Instant,
}

impl Progress for OnStderr {
    fn begin(&self, step: &str, bytes: u64) -> Box<dyn Step> {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg:24} {bar:30} {bytes:>10}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(step.to_owned());
        Box::new(Bar { bar, name: step.to_owned(), bytes, began: Instant::now() })
    }
}

impl Step for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn done(&self) {
        self.bar.finish_and_clear();
        let (bytes, time) = (HumanBytes(self.bytes), self.began.elapsed());
        match (self.bytes, time.as_secs()) {
            (0, 0) => eprintln!("{:24} done", self.name),
            (0, _) => eprintln!("{:24} {}", self.name, HumanDuration(time)),
            (_, 0) => eprintln!("{:24} {bytes}", self.name),
            _ => eprintln!("{:24} {bytes} in {}", self.name, HumanDuration(time)),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
