//! Client of the operators' API, used by the command line and the lab.
