use crate::{
    dhcp::{Action, Link, Probed, Request},
    model::Mac,
    provisioner::{Answered, Provisioner},
};

/// Who decides what is answered: the provisioner, or a test. Cloned for every request.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request, from memory: it waits for nothing. A reply may leave only when what it promises
    /// is on disk ([`Answer::saved`], [`Answer::late`]).
    fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>) -> Answered;

    /// Waits for the disk, though not long: true where all that these answers promise is there. In the order in which they were given.
    fn saved(&self, answers: &mut [Answered]) -> impl Future<Output = bool> + Send {
        let _ = answers;
        std::future::ready(true)
    }

    /// What is to be done with an answer for which the disk was not ready soon.
    fn late(&self, answered: Answered) -> impl Future<Output = Action> + Send {
        std::future::ready(answered.action)
    }

    /// A link is open at this address; its requests follow. Again whenever it was opened anew.
    fn opened(&self, link: &Link) {
        let _ = link;
    }

    /// Whether a machine is on record: its requests pass however many strangers ask. Quick, from
    /// memory: it is asked before any bound applies.
    fn known(&self, mac: Mac) -> bool {
        let _ = mac;
        false
    }
}

impl Answer for Provisioner {
    fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>) -> Answered {
        Provisioner::dhcp(self, link, req, probed)
    }

    async fn saved(&self, answers: &mut [Answered]) -> bool {
        self.dhcp_saved(answers).await
    }

    async fn late(&self, answered: Answered) -> Action {
        self.dhcp_late(answered).await
    }

    fn opened(&self, link: &Link) {
        self.link_opened(link);
    }

    fn known(&self, mac: Mac) -> bool {
        self.knows(mac)
    }
}
