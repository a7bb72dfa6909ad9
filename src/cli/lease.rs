//! `pristine lease`.

use super::{Context, Outcome, table::Table, text};
use crate::model::{ClientKey, Lease, LeaseState};
use clap::Subcommand;

/// Addresses and who has them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every lease
    List,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Command::List = self;
        let mut leases = context.client()?.leases()?;
        leases.sort_by_key(|l| l.addr);
        context.show(&leases, || table(&leases, text::now()))
    }
}

fn table(leases: &[Lease], now: i64) -> String {
    if leases.is_empty() {
        return "no leases\n".into();
    }
    let mut table = Table::new(&["ADDRESS", "MAC", "STATE", ">LEFT", "HOSTNAME", "CLIENT ID"]);
    for l in leases {
        let state = match l.state {
            LeaseState::Offered => "offered",
            LeaseState::Bound if l.expires <= now => "expired",
            LeaseState::Bound => "bound",
            LeaseState::Released => "released",
            LeaseState::Declined => "in use by another",
        };
        let id = match &l.client {
            ClientKey::Id(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
            ClientKey::Mac(_) => "-".to_owned(),
        };
        let left = if l.expires <= now { "-".to_owned() } else { text::ago(l.expires - now) };
        let host = l.hostname.clone().unwrap_or_else(|| "-".into());
        table.row([l.addr.to_string(), l.mac.to_string(), state.to_owned(), left, host, id]);
    }
    table.render()
}
