//! Redfish (DSP0266, schema ComputerSystem): service root, its one system or the named one, the boot
//! override for one boot, the reset. What a BMC says that it allows is kept to; what it says of places
//! counts only as a path of its own.

use super::{
    Credentials, PowerError,
    error::tidy,
    http::{Answer, Origin, Session},
};
use crate::model::{BootOnce, PowerAction, Redfish, wire::PowerStatus};
use hyper::Method;
use serde_json::{Value, json};

/// Where every Redfish service begins.
const ROOT: &str = "/redfish/v1/";
/// Where systems are by custom; an id in the settings means one of these.
const SYSTEMS: &str = "/redfish/v1/Systems/";
/// Systems of one BMC that an error names; values that a status shows.
const NAMED: usize = 16;
/// Longest path that a BMC may name.
const MAX_PATH: usize = 512;

pub(super) async fn status(bmc: &Redfish, credentials: &Credentials) -> Result<PowerStatus, PowerError> {
    let system = System::find(bmc, credentials).await?;
    let boot = system.text("/Boot/BootSourceOverrideTarget");
    let once = system.text("/Boot/BootSourceOverrideEnabled").filter(|e| e == "Once");
    let model = [system.text("/Manufacturer"), system.text("/Model")];
    Ok(PowerStatus {
        state: system.state().unwrap_or_else(|| "unknown".to_owned()),
        boot_once: once.and(boot).filter(|b| b != "None"),
        model: Some(model.into_iter().flatten().collect::<Vec<_>>().join(" ")).filter(|m| !m.is_empty()),
        system: Some(system.path.clone()),
        resets: system.resets().await?.unwrap_or_default(),
    })
}

pub(super) async fn act(
    bmc: &Redfish,
    credentials: &Credentials,
    action: PowerAction,
) -> Result<(), PowerError> {
    let system = System::find(bmc, credentials).await?;
    let state = system.state();
    let is = |wanted: &str| state.as_deref() == Some(wanted);
    match action {
        PowerAction::BootOnce => system.boot_once(bmc.boot).await,
        PowerAction::On if is("On") => Ok(()),
        PowerAction::Off if is("Off") => Ok(()),
        PowerAction::On => system.reset(&["On", "ForceOn"]).await,
        PowerAction::Off => system.reset(&["ForceOff"]).await,
        PowerAction::Cycle => {
            system.boot_once(bmc.boot).await?;
            match is("Off") {
                true => system.reset(&["On", "ForceOn"]).await,
                false => system.reset(&["ForceRestart", "PowerCycle", "GracefulRestart"]).await,
            }
        }
    }
}

/// A ComputerSystem as its BMC describes it.
struct System<'a> {
    session: Session<'a>,
    path: String,
    answer: Answer,
}

impl<'a> System<'a> {
    async fn find(bmc: &Redfish, credentials: &'a Credentials) -> Result<System<'a>, PowerError> {
        let session = Session { origin: Origin::parse(&bmc.url)?, pin: bmc.certificate, credentials };
        let path = match bmc.system.as_deref() {
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(id) => format!("{SYSTEMS}{id}"),
            None => only_system(&session).await?,
        };
        let answer = session.send(Method::GET, &path, None, None).await?;
        if answer.body.get("PowerState").is_none() && answer.body.get("Actions").is_none() {
            return Err(session.origin.nonsense(format!("{path} is no computer system")));
        }
        Ok(System { session, path, answer })
    }

    fn text(&self, pointer: &str) -> Option<String> {
        self.answer.body.pointer(pointer).and_then(Value::as_str).map(tidy)
    }

    fn state(&self) -> Option<String> {
        self.text("/PowerState")
    }

    /// Kinds of reset that it takes; `None` where it doesn't say.
    async fn resets(&self) -> Result<Option<Vec<String>>, PowerError> {
        let Some(action) = self.answer.body.pointer("/Actions/#ComputerSystem.Reset") else {
            return Ok(None);
        };
        if let Some(values) = action.get("ResetType@Redfish.AllowableValues") {
            return Ok(Some(texts(values)));
        }
        let Some(info) = action.get("@Redfish.ActionInfo").and_then(Value::as_str) else { return Ok(None) };
        let info = own_path(&self.session.origin, info)?;
        let info = self.session.send(Method::GET, &info, None, None).await?.body;
        let parameters = info.get("Parameters").and_then(Value::as_array).into_iter().flatten();
        let mut of_reset = parameters.filter(|p| p.get("Name").and_then(Value::as_str) == Some("ResetType"));
        Ok(of_reset.next().and_then(|p| p.get("AllowableValues")).map(texts))
    }

    /// Asks for the first of these kinds of reset that it takes.
    async fn reset(&self, wanted: &[&str]) -> Result<(), PowerError> {
        let origin = &self.session.origin;
        let target =
            self.answer.body.pointer("/Actions/#ComputerSystem.Reset/target").and_then(Value::as_str);
        let target = target.ok_or_else(|| origin.nonsense(format!("{} can't be reset", self.path)))?;
        let target = own_path(origin, target)?;
        let kind = match self.resets().await? {
            None => wanted.first(),
            Some(allowed) => {
                let kind = wanted.iter().find(|w| allowed.iter().any(|a| a == *w));
                if kind.is_none() {
                    return Err(origin.nonsense(format!(
                        "it takes {} for a reset, none of which is {}",
                        listed(&allowed),
                        wanted.join(" or ")
                    )));
                }
                kind
            }
        };
        let body = json!({ "ResetType": kind });
        self.session.send(Method::POST, &target, Some(&body), None).await.map(drop)
    }

    async fn boot_once(&self, from: BootOnce) -> Result<(), PowerError> {
        let (target, mode) = match from {
            BootOnce::Pxe => ("Pxe", None),
            BootOnce::Http => ("UefiHttp", Some("UEFI")),
        };
        let allowed = self.answer.body.pointer("/Boot/BootSourceOverrideTarget@Redfish.AllowableValues");
        if let Some(allowed) = allowed.map(texts)
            && !allowed.iter().any(|a| a == target)
        {
            return Err(self.session.origin.nonsense(format!(
                "it can boot once from {}, not from {target}: choose another --boot in `pristine power set`",
                listed(&allowed)
            )));
        }
        let mut boot = json!({ "BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target });
        if let (Some(mode), Some(boot)) = (mode, boot.as_object_mut()) {
            boot.insert("BootSourceOverrideMode".to_owned(), mode.into());
        }
        let etag = self.answer.etag.as_ref();
        self.session.send(Method::PATCH, &self.path, Some(&json!({ "Boot": boot })), etag).await.map(drop)
    }
}

/// The system of a BMC that has one.
async fn only_system(session: &Session<'_>) -> Result<String, PowerError> {
    let origin = &session.origin;
    let root = session.send(Method::GET, ROOT, None, None).await?.body;
    let systems = root.pointer("/Systems/@odata.id").and_then(Value::as_str);
    let systems = systems.ok_or_else(|| origin.nonsense("its service root names no systems"))?;
    let systems = own_path(origin, systems)?;
    let all = session.send(Method::GET, &systems, None, None).await?.body;
    let members = all.get("Members").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let paths: Vec<&str> = members.iter().filter_map(|m| m.get("@odata.id")?.as_str()).collect();
    match paths.as_slice() {
        [one] => own_path(origin, one),
        [] => Err(origin.nonsense("it has no computer system")),
        many => {
            let ids: Vec<String> =
                many.iter().map(|p| tidy(p.rsplit('/').next().unwrap_or_default())).collect();
            Err(PowerError::Settings(format!(
                "{} has {} computer systems: name one with --system, of {}",
                origin.url,
                many.len(),
                listed(&ids)
            )))
        }
    }
}

/// A place that a BMC names, if it is its own: a path, never another host.
fn own_path(origin: &Origin, path: &str) -> Result<String, PowerError> {
    let fine = path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= MAX_PATH
        && path.bytes().all(|b| b.is_ascii_graphic());
    match fine {
        true => Ok(path.to_owned()),
        false => Err(origin.nonsense(format!("it points to `{}`, which is no path of its own", tidy(path)))),
    }
}

fn texts(values: &Value) -> Vec<String> {
    let values = values.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).map(tidy).take(NAMED).collect()
}

fn listed(values: &[String]) -> String {
    if values.is_empty() {
        "nothing".to_owned()
    } else {
        values.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")
    }
}
