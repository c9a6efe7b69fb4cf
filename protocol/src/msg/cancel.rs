//! CANCEL (MS-SMB2 2.2.30): a request without fields; there is no response to it, only to what it cancels.

without_fields!(
    /// CANCEL request. Which request it means stands in the header: AsyncId if that flag is set, MessageId otherwise.
    Request = "CANCEL request"
);
