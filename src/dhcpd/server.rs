use super::{Answer, LinkStatus, OtherServer, Settings, link::Served, others, sockets::Sockets};
use crate::{dhcp::Mode, sys::links};
use std::{io, sync::Arc};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};

/// The DHCP server with its sockets open, not yet answering.
#[derive(Debug)]
pub struct Server {
    links: Vec<(Arc<Served>, Option<Sockets>)>,
}

impl Server {
    /// Opens the sockets of every interface that can be served now; the others are waited for, with a
    /// warning that says what each lacks. Must be called within a tokio runtime.
    ///
    /// Errors (their text is meant to be shown): a port is taken, capabilities are missing, an
    /// interface is named twice.
    pub fn bind(settings: Settings) -> io::Result<Server> {
        let interfaces = links::follow()?;
        let mut bound: Vec<(Arc<Served>, Option<Sockets>)> = Vec::new();
        for one in settings.interfaces {
            if bound.iter().any(|(other, _)| other.settings.name == one.name) {
                let text = format!("interface {} is named twice: name it once", one.name);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            if one.mode == Mode::Off {
                continue;
            }
            let served = Arc::new(Served::new(one, interfaces.clone()));
            let sockets = served.open(&interfaces.borrow())?;
            bound.push((served, sockets));
        }
        Ok(Server { links: bound })
    }

    /// Shows the links while the server runs.
    pub fn monitor(&self) -> Monitor {
        Monitor { links: self.links.iter().map(|(served, _)| Arc::clone(served)).collect() }
    }

    /// Answers until `shutdown` is true (or its sender is gone), on the runtime in which it was bound. A reply is sent
    /// only after `answer` returned it and what it promises is on disk, so ending at any time breaks no promise.
    /// ACKs wait for that on `acks`.
    pub async fn run<A: Answer>(
        self,
        answer: A,
        acks: Handle,
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        for (served, sockets) in self.links {
            tasks.spawn(served.serve(sockets, answer.clone(), acks.clone()));
        }
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                Ok(()) => Err(io::Error::other("the DHCP server lost sight of the interfaces")),
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }
}

/// A look at the links of a running server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    links: Vec<Arc<Served>>,
}

impl Monitor {
    /// Every link that is not off: what it waits for or serves, and its counts.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.links.iter().map(|served| served.status()).collect()
    }

    /// Each other DHCP server on a link where none should be: the link, whom, and in words.
    pub fn other_servers(&self) -> Vec<(String, OtherServer, String)> {
        let of = |link: LinkStatus| {
            let name = link.interface;
            link.other_servers.into_iter().map(move |other| {
                let words = others::alarm(other.server, other.mac, &name);
                (name.clone(), other, words)
            })
        };
        self.status().into_iter().flat_map(of).collect()
    }
}
