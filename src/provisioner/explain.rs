//! `pristine explain`: the same answer as a boot gets, for a person.

use super::{BootAnswer, CommandError, Explanation, Provisioner, command::find, state::State};
use crate::{
    model::{BootClient, BootMethod, ClientKind, Machine},
    netboot::{NbpAnswer, ServerAddr},
};
use std::net::Ipv4Addr;

impl Provisioner {
    /// What a machine would get now, and by which rule; by MAC (seen or not) or hostname. Takes the
    /// firmware of its last boot.
    pub fn explain(&self, key: &str) -> Result<Explanation, CommandError> {
        let state = self.state();
        let (machine, seen, mut answer) = self.asked(&state, key)?;
        let mac = machine.mac;
        let configured = state.configure(&mut answer, &machine, None);
        let why = answer.why();
        let nbp = match answer.nbp {
            NbpAnswer::AddressOnly => None,
            NbpAnswer::Tftp { file } => Some(file),
            NbpAnswer::Url { url } => url.rsplit('/').next().map(str::to_owned),
        };
        let mut leases: Vec<_> =
            [mac].iter().chain(&machine.other_macs).flat_map(|m| state.leases.by_mac(*m)).cloned().collect();
        leases.sort_by_key(|l| l.addr);
        let image = self.described(answer.target.clone()).image;
        Ok(Explanation {
            seen,
            target: answer.target,
            rule: answer.rule,
            image,
            why,
            instead_of: answer.instead_of,
            refused: answer.refused,
            firmware: machine.firmware,
            nbp: nbp.filter(|_| machine.firmware.is_some()),
            profiles: configured.map(|(_, c)| c.profiles).unwrap_or_default(),
            leases,
            machine,
        })
    }

    /// The answer for a machine as an operator names it, with the firmware of its last boot; and whether it was ever seen.
    pub(super) fn asked(
        &self,
        state: &State,
        key: &str,
    ) -> Result<(Machine, bool, BootAnswer), CommandError> {
        let mac = find(state, key)?;
        let found = state.machines.get(mac).cloned();
        let seen = found.as_ref().is_some_and(Machine::was_seen);
        let machine = found.unwrap_or_else(|| Machine::new(mac, self.now()));
        let method = match machine.firmware.is_some_and(|f| f.is_http()) {
            true => BootMethod::Http,
            false => BootMethod::Pxe,
        };
        let client = BootClient {
            mac,
            kind: ClientKind::Firmware(method),
            arch: machine.firmware,
            uuid: None,
            hostname: None,
        };
        // Only the name of the NBP is shown, which doesn't hang on the address.
        let server = ServerAddr { ip: Ipv4Addr::UNSPECIFIED, http_port: 80 };
        let answer = state.answer(&self.0.images, &client, &server, &self.voucher());
        Ok((machine, seen, answer))
    }
}
