//! What would keep a boot from working here.
