//! HTTP for machines, through real sockets and with curl.

mod blobs;
mod connections;
mod harness;
mod requests;

pub(crate) use harness::{Folder, Served, serve_store};
