//! What is on disk: the state database, the image store, the NBP folder.
