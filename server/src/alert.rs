//! tmp
pub struct Alert { pub branch: String, pub error: String, pub gid: String, pub retry_count: u32, pub status: String }
pub struct Alerts;
impl Alerts { pub fn send(&self, _a: Alert) {} pub fn new(_u:&str,_t:std::time::Duration,_m:std::sync::Arc<crate::metrics::Metrics>)->Alerts{Alerts} }
