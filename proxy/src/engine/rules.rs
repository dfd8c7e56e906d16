//! Pass-through rules: flows that always diverge (clocks in payloads, remote desktops) and are
//! worth more uncompared than checkpointed. An ordered list, empty by default; first match wins.
//!
//! ```text
//!   (pass|compare) PROTO [guest ADDR[/LEN][:PORT[-PORT]]] [peer ADDR[/LEN][:PORT[-PORT]]]
//!   pass udp guest :3389
//!   compare tcp peer 10.0.0.0/8
//!   pass tcp peer [2001:db8::]/32:443
//! ```

use crate::packet::{FlowKey, Proto};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use thiserror::Error;

/// A rule that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "rule '{rule}': {why}; write (pass|compare) (any|tcp|udp|icmp|icmpv6|nd|arp|ip/N|ether/N) [guest ADDR[/LEN][:PORT[-PORT]]] [peer …]"
)]
pub struct RuleError {
    /// The rule as it was given.
    pub rule: String,
    /// What is wrong with it.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    net: Option<IpNet>,
    ports: RangeInclusive<u16>,
}

impl End {
    const ANY: Self = Self { net: None, ports: 0..=u16::MAX };

    fn matches(&self, socket: Option<SocketAddr>, ports: bool) -> bool {
        if *self == Self::ANY {
            return true;
        }
        let all_ports = self.ports == Self::ANY.ports;
        socket.is_some_and(|socket| {
            self.net.is_none_or(|net| net.contains(&socket.ip()))
                && (all_ports || ports && self.ports.contains(&socket.port()))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pass: bool,
    proto: Option<Proto>,
    guest: End,
    peer: End,
}

impl Rule {
    fn matches(&self, flow: &FlowKey) -> bool {
        let ports = flow.proto().has_ports();
        self.proto.is_none_or(|proto| proto == flow.proto())
            && self.guest.matches(flow.guest(), ports)
            && self.peer.matches(flow.peer(), ports)
    }
}

/// An ordered list of rules; flows that none matches are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassRules(Vec<Rule>);

impl PassRules {
    /// Reads a list of rules, one text each.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, RuleError> {
        rules.iter().map(|rule| parse_rule(rule.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this flow goes uncompared.
    pub fn pass(&self, flow: &FlowKey) -> bool {
        self.0.iter().find(|rule| rule.matches(flow)).is_some_and(|rule| rule.pass)
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse_rule(text: &str) -> Result<Rule, RuleError> {
    let fail = |why: String| RuleError { rule: text.to_owned(), why };
    let mut words = text.split_whitespace();
    let pass = match words.next() {
        Some("pass") => true,
        Some("compare") => false,
        other => return Err(fail(format!("it begins with {}", quoted(other)))),
    };
    let proto = parse_proto(words.next()).map_err(fail)?;
    let (mut guest, mut peer) = (None, None);
    while let Some(word) = words.next() {
        let end = match word {
            "guest" => &mut guest,
            "peer" => &mut peer,
            other => return Err(fail(format!("'{other}' is neither guest nor peer"))),
        };
        if end.is_some() {
            return Err(fail(format!("'{word}' is there twice")));
        }
        let spec = words.next().ok_or_else(|| fail(format!("'{word}' has no address behind it")))?;
        *end = Some(parse_end(spec).map_err(fail)?);
    }
    Ok(Rule { pass, proto, guest: guest.unwrap_or(End::ANY), peer: peer.unwrap_or(End::ANY) })
}

fn quoted(word: Option<&str>) -> String {
    word.map_or_else(|| "nothing".to_owned(), |word| format!("'{word}'"))
}

fn parse_proto(word: Option<&str>) -> Result<Option<Proto>, String> {
    let unknown = || format!("{} is no protocol", quoted(word));
    Ok(Some(match word.ok_or_else(unknown)? {
        "any" => return Ok(None),
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        "icmp" => Proto::Icmp,
        "icmpv6" => Proto::Icmpv6,
        "nd" => Proto::Nd,
        "arp" => Proto::Arp,
        other => match other.split_once('/') {
            Some(("ip", number)) => Proto::Ip(number.parse().map_err(|_| unknown())?),
            Some(("ether", kind)) => {
                let (digits, radix) = kind.strip_prefix("0x").map_or((kind, 10), |hex| (hex, 16));
                Proto::Ether(u16::from_str_radix(digits, radix).map_err(|_| unknown())?)
            }
            _ => return Err(unknown()),
        },
    }))
}

/// `ADDR[/LEN][:PORT[-PORT]]` with either part absent; an IPv6 address with a port stands in brackets.
fn parse_end(spec: &str) -> Result<End, String> {
    let (address, ports) = if let Some(rest) = spec.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| format!("'{spec}' lacks a ']'"))?;
        let (length, ports) =
            rest.split_once(':').map_or((rest, None), |(length, ports)| (length, Some(ports)));
        (format!("{address}{length}"), ports)
    } else if spec.matches(':').count() > 1 {
        (spec.to_owned(), None)
    } else {
        let (address, ports) =
            spec.split_once(':').map_or((spec, None), |(address, ports)| (address, Some(ports)));
        (address.to_owned(), ports)
    };
    let net = (!address.is_empty()).then(|| parse_net(&address)).transpose()?;
    let ports = ports.map_or(Ok(End::ANY.ports), parse_ports)?;
    Ok(End { net, ports })
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    IpNet::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
        .map_err(|_| format!("'{text}' is neither an address nor a network"))
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("'{text}' is no port"));
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (port(low)?, port(high)?),
        None => (port(text)?, port(text)?),
    };
    if low > high {
        return Err(format!("the port range {low}-{high} is empty"));
    }
    Ok(low..=high)
}

impl fmt::Display for PassRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::FlowKey;

    fn flow(proto: Proto, guest: &str, peer: &str) -> FlowKey {
        let (guest, peer): (SocketAddr, SocketAddr) = (guest.parse().unwrap(), peer.parse().unwrap());
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        FlowKey::for_tests(proto, octets(guest.ip()), octets(peer.ip()))
            .ids_for_tests(guest.port(), peer.port())
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = PassRules::parse(&[
            "compare tcp peer 10.1.0.0/16",
            "pass tcp guest :3389-3390 peer 10.0.0.0/8",
            "pass udp peer [2001:db8::]/32:53",
            "pass ip/47",
        ])
        .unwrap();
        assert!(!rules.pass(&flow(Proto::Tcp, "192.0.2.1:3389", "10.1.2.3:5000")));
        assert!(rules.pass(&flow(Proto::Tcp, "192.0.2.1:3390", "10.2.2.3:5000")));
        assert!(!rules.pass(&flow(Proto::Tcp, "192.0.2.1:3391", "10.2.2.3:5000")));
        assert!(rules.pass(&flow(Proto::Udp, "[fd00::1]:40000", "[2001:db8::7]:53")));
        assert!(!rules.pass(&flow(Proto::Udp, "[fd00::1]:40000", "[2001:db8::7]:54")));
        assert!(rules.pass(&flow(Proto::Ip(47), "192.0.2.1:0", "10.0.0.1:0")));
        assert!(!PassRules::default().pass(&flow(Proto::Ip(47), "192.0.2.1:0", "10.0.0.1:0")));
    }

    #[test]
    fn a_rule_that_cannot_be_read_says_why() {
        for (rule, why) in [
            ("", "it begins with nothing"),
            ("drop tcp", "it begins with 'drop'"),
            ("pass", "nothing is no protocol"),
            ("pass sctp", "'sctp' is no protocol"),
            ("pass ip/300", "'ip/300' is no protocol"),
            ("pass tcp guest", "'guest' has no address behind it"),
            ("pass tcp host 1.2.3.4", "'host' is neither guest nor peer"),
            ("pass tcp guest :9-8", "the port range 9-8 is empty"),
            ("pass tcp guest :99999", "'99999' is no port"),
            ("pass tcp guest [::1", "'[::1' lacks a ']'"),
            ("pass tcp guest 1.2.3", "'1.2.3' is neither an address nor a network"),
            ("pass tcp guest 1.2.3.4 guest 1.2.3.4", "'guest' is there twice"),
        ] {
            assert_eq!(PassRules::parse(&[rule]).unwrap_err().why, why, "{rule}");
        }
    }
}
