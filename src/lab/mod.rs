//! Virtual servers on real firmware, in network namespaces.
