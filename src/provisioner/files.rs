//! Boot files: NBPs by name, and `autoexec.ipxe`, which iPXE asks for by itself.

use super::{
    FileAnswer, Provisioner, TransferOutcome,
    attempts::tidy,
    state::{Effects, State},
};
use crate::{
    model::{AttemptId, Stage},
    netboot::{ServerAddr, autoexec_script},
};
use bytes::Bytes;
use std::{net::Ipv4Addr, time::Instant};

/// What iPXE runs first of all, from the folder that it was itself fetched from.
const AUTOEXEC: &str = "autoexec.ipxe";

/// A file name as firmware means it: some write `\file`, some `/file`, and some read past the end of
/// option 67 and ask for `file` + 0xff or NUL (FIRMWARE.md). As a `str`, a stray 0xff is U+FFFD or
/// `ÿ`, depending on who decoded it.
pub(super) fn normal(name: &str) -> &str {
    name.trim_end_matches(['\0', '\u{ff}', '\u{fffd}']).trim_start_matches(['/', '\\'])
}

impl Provisioner {
    /// A boot file for the client at `peer`, who reaches us at `server`; by TFTP, and by HTTP under
    /// `/nbp/`.
    pub async fn tftp_file(&self, server: ServerAddr, peer: Ipv4Addr, name: &str) -> FileAnswer {
        let name = normal(name);
        if name == AUTOEXEC {
            return FileAnswer::Found(Bytes::from(autoexec_script(&server)));
        }
        match self.0.nbps.get(name) {
            Some(bytes) => FileAnswer::Found(bytes),
            None => {
                tracing::debug!(%peer, name, "no such boot file");
                self.file_trouble(peer, format!(
                    "it asked for the boot file {}, which is not here: `pristine nbp fetch` gets the usual ones \
                     (pristine nbp list), or put it into the NBP folder",
                    tidy(name)
                ));
                FileAnswer::NotFound
            }
        }
    }

    /// How the transfer of a boot file ended: a whole NBP is a stage of its machine's boot.
    pub async fn file_done(&self, peer: Ipv4Addr, name: &str, outcome: TransferOutcome) {
        let name = normal(name);
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let detail = match &outcome {
            TransferOutcome::Complete { bytes } => {
                state.stats.files += 1;
                format!("{name}, {bytes} bytes")
            }
            TransferOutcome::Probe => return,
            TransferOutcome::Aborted { at, why } => {
                state.stats.files_broken += 1;
                if let Some(more) = self.0.say_broken.due(Instant::now()) {
                    tracing::info!(%peer, name, at, why, more, "transfer of a boot file given up by the client");
                }
                let (name, why) = (tidy(name), tidy(why));
                let text = format!("it gave up its boot file {name} after {at} bytes, saying: {why}");
                drop(locked);
                return self.file_trouble(peer, text);
            }
            TransferOutcome::TimedOut { at } => {
                state.stats.files_broken += 1;
                if let Some(more) = self.0.say_broken.due(Instant::now()) {
                    tracing::info!(%peer, name, at, more, "transfer of a boot file timed out");
                }
                drop(locked);
                return self.file_trouble(peer, format!(
                    "the transfer of its boot file {} went silent after {at} bytes: a firewall blocks UDP's high \
                     ports, packets are too large for the way (MTU), or the machine was turned off",
                    tidy(name)
                ));
            }
        };
        if let Some(id) = early(state, peer).filter(|_| name != AUTOEXEC) {
            state.record(id, Stage::Nbp, Some(detail), now, &mut fx);
        }
        drop(self.hand_on(&locked, fx));
    }

    /// Notes what went wrong with a boot file in its machine's attempt.
    fn file_trouble(&self, peer: Ipv4Addr, trouble: String) {
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        if let Some(id) = early(state, peer) {
            state.update(id, &mut fx, |t| {
                let trouble = Some(trouble);
                let changed = t.attempt.file_trouble != trouble;
                t.attempt.file_trouble = trouble;
                changed
            });
        }
        drop(self.hand_on(&locked, fx));
    }
}

/// The attempt of the client at `peer`, while it may still fetch boot files: later in a boot it is a
/// system's own download.
fn early(state: &State, peer: Ipv4Addr) -> Option<AttemptId> {
    let attempt = state.mac_at(peer).and_then(|mac| state.attempts.latest(mac)).map(|t| &t.attempt);
    attempt.filter(|a| a.reached().is_some_and(|s| s < Stage::Script)).map(|a| a.id)
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn names_are_taken_as_firmware_means_them() {
        for said in ["a.efi", "/a.efi", "\\a.efi", "//a.efi", "a.efi\0", "a.efi\u{ff}", "/a.efi\u{fffd}\0"] {
            assert_eq!(normal(said), "a.efi", "{said:?}");
        }
        assert_eq!(normal("../etc/passwd"), "../etc/passwd", "which is no name of a boot program");
    }
}
