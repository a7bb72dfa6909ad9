//! HTTP for machines: scripts, blobs, NBPs, boot reports.
