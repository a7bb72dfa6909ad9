//! DHCP as pure functions: packet in, reply and changes out (RFC 2131, 2132, 3046, 4578).
