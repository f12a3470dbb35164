//! kschat
