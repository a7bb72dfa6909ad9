use super::Refusal;
use axum::http::StatusCode;

/// Work on files, which is not for the threads that answer. `what` it is says the refusal where it fails altogether.
pub(super) async fn on_disk<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "{what} failed");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} failed"))
    })
}
