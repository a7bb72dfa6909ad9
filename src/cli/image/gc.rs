//! `pristine image gc`.

use crate::{
    cli::{Context, Outcome, text},
    image::progress::{OnStderr, Progress as _},
    store::{ImageStore, images::Collection},
};
use std::fmt::Write as _;

pub(super) fn run(run: bool, store: &ImageStore, context: &Context) -> Outcome {
    let plan = store.collect(false, &|_| ())?;
    let done = if run {
        let step = OnStderr.begin("moving", plan.rewritten);
        let done = store.collect(true, &|n| step.advance(n))?;
        step.done();
        done
    } else {
        plan
    };
    context.show(&done, || words(&done))
}

fn words(done: &Collection) -> String {
    let mut out = format!(
        "{} packs, {}; {} of it is not needed\n",
        done.packs,
        text::size(done.bytes),
        text::size(done.garbage)
    );
    let (freed, rewritten) = (text::size(done.freed), text::size(done.rewritten));
    let _ = match (done.removed, done.run) {
        (0, _) => writeln!(out, "nothing is worth collecting"),
        (n, true) => writeln!(out, "{n} packs removed, {rewritten} of them moved: {freed} freed"),
        (n, false) => writeln!(
            out,
            "removing {n} packs, and moving {rewritten} of them, frees {freed}: `pristine image gc --run`. Nothing was changed"
        ),
    };
    let left = [
        (done.busy, "builds on them now (an import, a build, a push): collect again later"),
        (done.awaited, "pushed them less than a day ago"),
    ];
    for (n, who) in left.iter().filter(|(n, _)| *n > 0) {
        let _ = writeln!(out, "{n} packs stay: somebody {who}");
    }
    if done.damaged > 0 {
        let _ = writeln!(out, "{} packs stay: they are damaged, see `pristine image scrub`", done.damaged);
    }
    out
}
