//! `struct tcp_info`, `include/uapi/linux/tcp.h`, filled by `tcp_get_info()`.

use std::time::Duration;

use crate::nl::array;

/// What is needed of `struct tcp_info`. Kernels add fields at the end: what an older one
/// does not send is `None`, what a newer one adds is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Since data was last sent; where none ever was, since the handshake.
    pub last_data_sent: Duration,
    /// Since data was last received; where none ever was, since the handshake.
    pub last_data_recv: Duration,
    /// Since an acknowledgement last came; answers to keepalive probes count.
    pub last_ack_recv: Duration,
    /// Retransmissions of the oldest segment.
    pub retransmits: u8,
    /// Probes (zero window or keepalive) sent without an answer.
    pub probes: u8,
    /// How often the retransmission time was doubled.
    pub backoff: u8,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Retransmission timeout.
    pub rto: Duration,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Retransmissions in the connection's life; kernel ≥ 2.6.22.
    pub total_retransmits: Option<u32>,
    /// Bytes sent and acknowledged; kernel ≥ 4.1.
    pub bytes_acked: Option<u64>,
    /// Bytes received; kernel ≥ 4.1.
    pub bytes_received: Option<u64>,
}

impl TcpInfo {
    /// Reads the attribute `INET_DIAG_INFO`, or what `getsockopt(TCP_INFO)` gives.
    /// `None` if it is shorter than any kernel since 2.6 makes it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let u8_at = |offset: usize| bytes.get(offset).copied();
        let u32_at = |offset| array(bytes, offset, "tcp_info").map(u32::from_ne_bytes).ok();
        let u64_at = |offset| array(bytes, offset, "tcp_info").map(u64::from_ne_bytes).ok();
        let millis_at = |offset| Some(Duration::from_millis(u64::from(u32_at(offset)?)));
        let micros_at = |offset| Some(Duration::from_micros(u64::from(u32_at(offset)?)));
        Some(Self {
            retransmits: u8_at(2)?,
            probes: u8_at(3)?,
            backoff: u8_at(4)?,
            rto: micros_at(8)?,
            unacked: u32_at(24)?,
            last_data_sent: millis_at(44)?,
            // 48 is tcpi_last_ack_sent, which the kernel never fills in.
            last_data_recv: millis_at(52)?,
            last_ack_recv: millis_at(56)?,
            rtt: micros_at(68)?,
            total_retransmits: u32_at(100),
            bytes_acked: u64_at(120),
            bytes_received: u64_at(128),
        })
    }

    /// How long the connection has been silent in both directions: the least of the three
    /// ages. The last packet that refreshed a load balancer's entry was at most that long
    /// ago, except for bare acknowledgements and probes that this end sent unanswered.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.last_data_sent.min(self.last_data_recv).min(self.last_ack_recv)
    }
}
