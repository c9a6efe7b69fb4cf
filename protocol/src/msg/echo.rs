//! ECHO (MS-SMB2 2.2.28, 2.2.29): a request and a response without fields.

without_fields!(
    /// ECHO request.
    Request = "ECHO request"
);
without_fields!(
    /// ECHO response.
    Response = "ECHO response"
);
