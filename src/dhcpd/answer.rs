use crate::{
    dhcp::{Action, Link, Probed, Request},
    model::Mac,
    provisioner::Provisioner,
};

/// Who decides what is answered: the provisioner, or a test. Cloned for every request.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request. A [`Action::Reply`] must be durable when it is returned.
    fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>)
    -> impl Future<Output = Action> + Send;

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
    async fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>) -> Action {
        Provisioner::dhcp(self, link, req, probed).await
    }

    fn opened(&self, link: &Link) {
        self.link_opened(link);
    }

    fn known(&self, mac: Mac) -> bool {
        self.knows(mac)
    }
}
