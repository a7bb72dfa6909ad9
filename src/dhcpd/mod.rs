//! The DHCP server's sockets: a thin shell around `dhcp` and the provisioner.
