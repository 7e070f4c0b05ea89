//! Which addresses the operator connects to for a source.
//!
//! Whoever may write an EventSource chooses where a process with another place in the network sends requests, with headers
//! of his choice: without a limit that reaches the metadata service of the node and ports that listen on loopback alone. The
//! addresses that a connection is made to are judged, after the name was resolved, so a name that changes its address is
//! judged anew each time. Behind a proxy the proxy resolves names; there only an address in the URL can be judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// Where clouds answer every pod with the credentials of its node, beside the link-local 169.254.169.254: AWS, Google,
/// Azure, Alibaba, Oracle; the pod identity agent of EKS; Scaleway.
const METADATA: [IpAddr; 7] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// The well-known prefix of NAT64 (RFC 6052): the last four bytes are an IPv4 address.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// What may be connected to. By default everything but loopback, link-local and metadata addresses, and what is no address
/// of one host.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl Egress {
    /// `allowed` goes before `denied`, and before what is refused by default.
    #[must_use]
    pub fn new(allowed: &[IpNet], denied: &[IpNet]) -> Self {
        let canonical = |networks: &[IpNet]| networks.iter().copied().map(canonical).collect();
        Self { allowed: canonical(allowed), denied: canonical(denied) }
    }

    /// What an address is that is not connected to; `None` for all others.
    pub(super) fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let reached = as_it_is_reached(address);
        let is_in = |networks: &[IpNet], address| networks.iter().any(|network| network.contains(&address));
        // Only a network within the prefix speaks of NAT64: a wider one, such as ::/0, says nothing of IPv4.
        let is_allowed =
            |network: &IpNet| network.contains(&reached) || (is_nat64(network.network()) && network.contains(&address));
        if self.allowed.iter().any(is_allowed) {
            None
        } else if is_in(&self.denied, reached) || is_in(&self.denied, address) {
            Some("an address in `--deny-addresses`")
        } else {
            special(reached)
        }
    }
}

/// A network of IPv4 in the clothes of IPv6 (`::ffff:10.0.0.0/104`) is that network of IPv4: a socket knows no difference.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

fn is_nat64(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[..6] == NAT64)
}

/// IPv4 in the clothes of IPv6 leads to the same host.
fn as_it_is_reached(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if is_nat64(address) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

fn special(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_loopback() {
        Some("a loopback address")
    } else if is_link_local {
        Some("a link-local address")
    } else if METADATA.contains(&address) {
        Some("the metadata service of a cloud")
    } else if address.is_unspecified() || address.is_multicast() || is_broadcast {
        Some("not the address of a single host")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allowed: &str, denied: &str) -> Egress {
        let networks =
            |text: &str| text.split_whitespace().map(|it| it.parse().expect("a network")).collect::<Vec<_>>();
        Egress::new(&networks(allowed), &networks(denied))
    }

    fn refused(egress: &Egress, address: &str) -> Option<&'static str> {
        egress.refuses(address.parse().expect("an address"))
    }

    #[test]
    fn what_only_the_node_and_the_pod_itself_should_reach_is_refused_in_every_spelling() {
        for (address, what) in [
            ("127.0.0.1", "loopback"),
            ("127.8.8.8", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("::ffff:169.254.169.254", "link-local"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fd00:ec2::254", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("168.63.129.16", "metadata"),
            ("192.0.0.192", "metadata"),
            ("0.0.0.0", "a single host"),
            ("::", "a single host"),
            ("224.0.0.1", "a single host"),
            ("ff02::1", "a single host"),
            ("255.255.255.255", "a single host"),
        ] {
            let said = refused(&Egress::default(), address);
            assert!(said.is_some_and(|said| said.contains(what)), "{address}: {said:?}");
        }
    }

    #[test]
    fn addresses_of_a_cluster_and_of_the_world_are_connected_to() {
        for address in
            ["10.96.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "93.184.216.34", "fd00::1", "2606:4700::1"]
        {
            assert_eq!(refused(&Egress::default(), address), None, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_goes_before_what_is_denied_and_that_before_the_rest() {
        let egress = egress("127.0.0.1/32 10.1.2.0/24", "10.0.0.0/8 fd00::/8");
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "192.168.1.1"] {
            assert_eq!(refused(&egress, address), None, "{address}");
        }
        for address in ["127.0.0.2", "10.1.3.3", "::ffff:10.1.3.3", "fd00::1", "169.254.169.254"] {
            assert!(refused(&egress, address).is_some(), "{address}");
        }
    }

    #[test]
    fn a_network_of_nat64_is_allowed_as_it_is_written_and_a_wider_one_says_nothing_of_ipv4() {
        let nat64 = egress("64:ff9b::/96", "10.0.0.0/8");
        for address in ["64:ff9b::7f00:1", "64:ff9b::a00:1"] {
            assert_eq!(refused(&nat64, address), None, "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1"] {
            assert!(refused(&nat64, address).is_some(), "{address}");
        }
        let ipv6 = egress("::/0", "");
        assert_eq!(refused(&ipv6, "::1"), None);
        for address in ["64:ff9b::7f00:1", "::ffff:127.0.0.1", "127.0.0.1"] {
            assert!(refused(&ipv6, address).is_some(), "{address}");
        }
    }

    #[test]
    fn a_network_of_mapped_ipv4_is_that_network_of_ipv4() {
        let denied = egress("", "::ffff:10.0.0.0/104 ::ffff:192.168.1.1/128");
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "192.168.1.1"] {
            assert!(refused(&denied, address).is_some(), "{address}");
        }
        assert_eq!(refused(&denied, "192.168.1.2"), None);
        let allowed = egress("::ffff:127.0.0.0/104", "");
        for address in ["127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(refused(&allowed, address), None, "{address}");
        }
        assert!(refused(&allowed, "::1").is_some());
    }
}
