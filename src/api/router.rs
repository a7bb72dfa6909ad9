//! Every route of the API.

use super::{
    Refusal, Token, auth, auth::BadTokens, boots, bulk, log, machines, metrics, power, profiles, rollouts,
    rules, secrets, server::Counters, site, uploads, watch,
};
use crate::{
    image::transfer::uploads::Uploads,
    model::{
        audit::{By, Who},
        wire::Alarm,
    },
    provisioner::Provisioner,
    store::ImageStore,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Every route, as method and path; `docs/api.md` describes each.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/api/v1/machines"),
    ("POST", "/api/v1/machines"),
    ("GET", "/api/v1/machines/{machine}"),
    ("PATCH", "/api/v1/machines/{machine}"),
    ("DELETE", "/api/v1/machines/{machine}"),
    ("PUT", "/api/v1/machines/{machine}/pin"),
    ("DELETE", "/api/v1/machines/{machine}/pin"),
    ("POST", "/api/v1/machines/{machine}/retry"),
    ("GET", "/api/v1/machines/{machine}/explain"),
    ("GET", "/api/v1/machines/{machine}/boots"),
    ("GET", "/api/v1/machines/{machine}/power"),
    ("PUT", "/api/v1/machines/{machine}/power"),
    ("POST", "/api/v1/machines/{machine}/power"),
    ("GET", "/api/v1/machines/{machine}/power/certificate"),
    ("GET", "/api/v1/machines/{machine}/config"),
    ("GET", "/api/v1/boots"),
    ("GET", "/api/v1/boots/{boot}"),
    ("GET", "/api/v1/watch"),
    ("GET", "/api/v1/default"),
    ("PUT", "/api/v1/default"),
    ("DELETE", "/api/v1/default"),
    ("GET", "/api/v1/rules"),
    ("PUT", "/api/v1/rules/{rule}"),
    ("DELETE", "/api/v1/rules/{rule}"),
    ("GET", "/api/v1/profiles"),
    ("GET", "/api/v1/profiles/{profile}"),
    ("PUT", "/api/v1/profiles/{profile}"),
    ("DELETE", "/api/v1/profiles/{profile}"),
    ("GET", "/api/v1/rollouts"),
    ("POST", "/api/v1/rollouts"),
    ("GET", "/api/v1/rollouts/{rollout}"),
    ("POST", "/api/v1/rollouts/{rollout}"),
    ("DELETE", "/api/v1/rollouts/{rollout}"),
    ("GET", "/api/v1/secrets"),
    ("PUT", "/api/v1/secrets/{secret}"),
    ("DELETE", "/api/v1/secrets/{secret}"),
    ("POST", "/api/v1/apply"),
    ("GET", "/api/v1/export"),
    ("GET", "/api/v1/log"),
    ("GET", "/api/v1/log/verify"),
    ("GET", "/api/v1/leases"),
    ("GET", "/api/v1/images"),
    ("GET", "/api/v1/images/{image}"),
    ("POST", "/api/v1/uploads"),
    ("POST", "/api/v1/uploads/{image}/chunks"),
    ("POST", "/api/v1/uploads/{image}/commit"),
    ("GET", "/api/v1/status"),
    ("GET", "/metrics"),
];

/// Largest body of a request.
pub const MAX_BODY: usize = 64 * 1024;
/// Longest a request may take, its body included; a live stream only has to begin by then.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest work on everything there is.
const LONGEST_OF_ALL: Duration = Duration::from_secs(600);

/// What the other parts tell, as the moment finds them.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Counters by part.
    pub counters: BTreeMap<String, serde_json::Value>,
    /// What an operator should look at.
    pub alarms: Vec<Alarm>,
}

/// Asks the other parts.
pub type AskOthers = Arc<dyn Fn() -> Others + Send + Sync>;

/// What the routes work on. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    provisioner: Provisioner,
    images: ImageStore,
    uploads: Uploads,
    upload_places: tokio::sync::Semaphore,
    bulk_places: Arc<tokio::sync::Semaphore>,
    token: Token,
    others: AskOthers,
    started: std::time::Instant,
    bad_tokens: BadTokens,
    counters: Arc<Counters>,
    shutdown: tokio::sync::watch::Receiver<bool>,
}

impl Api {
    /// An API over this provisioner. `others` asks the parts that only the caller
    /// knows; live streams end when `shutdown` is true.
    pub fn new(
        provisioner: Provisioner,
        images: ImageStore,
        token: Token,
        others: AskOthers,
        shutdown: tokio::sync::watch::Receiver<bool>,
    ) -> Api {
        // Who it is in particular is said by each request, see `by`.
        let operator = By { who: Who::Operator, ..By::default() };
        Api(Arc::new(Inner {
            provisioner: provisioner.by(operator),
            uploads: Uploads::new(images.clone()),
            upload_places: tokio::sync::Semaphore::new(uploads::AT_ONCE),
            bulk_places: Arc::new(tokio::sync::Semaphore::new(bulk::AT_ONCE)),
            images,
            token,
            others,
            started: std::time::Instant::now(),
            bad_tokens: BadTokens::default(),
            counters: Arc::new(Counters::default()),
            shutdown,
        }))
    }

    pub(super) fn provisioner(&self) -> &Provisioner {
        &self.0.provisioner
    }

    pub(super) fn images(&self) -> &ImageStore {
        &self.0.images
    }

    pub(super) fn uploads(&self) -> &Uploads {
        &self.0.uploads
    }

    /// Whoever has a body of an upload in memory holds one of these.
    pub(super) fn upload_places(&self) -> &tokio::sync::Semaphore {
        &self.0.upload_places
    }

    /// Whoever has a document or rows in memory holds one of these.
    pub(super) fn bulk_places(&self) -> Arc<tokio::sync::Semaphore> {
        self.0.bulk_places.clone()
    }

    pub(super) fn token(&self) -> &Token {
        &self.0.token
    }

    pub(super) fn bad_tokens(&self) -> &BadTokens {
        &self.0.bad_tokens
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    pub(super) fn others(&self) -> Others {
        (self.0.others)()
    }

    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(super) fn shutdown(&self) -> tokio::sync::watch::Receiver<bool> {
        self.0.shutdown.clone()
    }
}

/// The routes of [`ROUTES`], behind the token, with their bounds.
pub fn router(api: Api) -> Router {
    let machine = get(machines::show).patch(machines::change).delete(machines::forget);
    let set_profile = axum::routing::put(profiles::set).layer(DefaultBodyLimit::max(profiles::MAX_SET));
    let profile = get(profiles::show).delete(profiles::remove).merge(set_profile);
    let rollout = get(rollouts::show).post(rollouts::order).delete(rollouts::remove);
    let large = DefaultBodyLimit::max(bulk::MAX_BODY);
    let v1 = Router::new()
        .route("/machines", get(machines::list).post(bulk::import).layer(large))
        .route("/machines/{machine}", machine)
        .route("/machines/{machine}/pin", axum::routing::put(machines::pin).delete(machines::unpin))
        .route("/machines/{machine}/retry", axum::routing::post(machines::retry))
        .route("/machines/{machine}/explain", get(machines::explain))
        .route("/machines/{machine}/boots", get(boots::of_machine))
        .route("/machines/{machine}/power", get(power::status).put(power::set).post(power::act))
        .route("/machines/{machine}/power/certificate", get(power::certificate))
        .route("/machines/{machine}/config", get(profiles::of_machine))
        .route("/profiles", get(profiles::list))
        .route("/profiles/{profile}", profile)
        .route("/boots", get(boots::list))
        .route("/boots/{boot}", get(boots::show))
        .route("/watch", get(watch::watch))
        .route("/default", get(site::default).put(site::set_default).delete(site::clear_default))
        .route("/rules", get(rules::list))
        .route("/rules/{rule}", axum::routing::put(rules::set).delete(rules::remove))
        .route("/rollouts", get(rollouts::list).post(rollouts::start))
        .route("/rollouts/{rollout}", rollout)
        .route("/secrets", get(secrets::list))
        .route("/secrets/{secret}", axum::routing::put(secrets::set).delete(secrets::remove))
        .route("/apply", axum::routing::post(bulk::apply).layer(large))
        .route("/export", get(bulk::export))
        .route("/log", get(log::list))
        .route("/log/verify", get(log::verify))
        .route("/leases", get(site::leases))
        .route("/images", get(site::images))
        .route("/images/{image}", get(site::image))
        .route("/uploads", axum::routing::post(uploads::begin))
        .route("/uploads/{image}/chunks", axum::routing::post(uploads::take))
        .route("/uploads/{image}/commit", axum::routing::post(uploads::commit))
        .route("/status", get(site::status));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(metrics::metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(api.clone(), auth::require_token))
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

async fn no_route(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal::new(StatusCode::NOT_FOUND, format!("nothing is at {path}"))
        .hint("docs/api.md lists every route; all but /metrics begin with /api/v1/")
}

async fn no_method(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} knows no {}", request.method()))
        .hint("docs/api.md lists what each path knows")
}

/// How long a request may take.
fn longest(path: &str) -> Duration {
    if ["/api/v1/machines", "/api/v1/apply", "/api/v1/export", "/api/v1/log/verify"].contains(&path) {
        return LONGEST_OF_ALL;
    }
    if path.ends_with("/power") {
        // A BMC is asked meanwhile.
        return crate::power::LONGEST + Duration::from_secs(5);
    }
    match path.strip_prefix("/api/v1/uploads") {
        Some(rest) if rest.ends_with("/commit") => uploads::LONGEST_COMMIT,
        Some(_) => uploads::LONGEST_BODY,
        None => LONGEST,
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let longest = longest(request.uri().path());
    match tokio::time::timeout(longest, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}

async fn count(
    axum::extract::State(api): axum::extract::State<Api>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    api.counters().answered(response.status());
    response
}
