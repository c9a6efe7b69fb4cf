//! LOGOFF (MS-SMB2 2.2.7, 2.2.8): a request and a response without fields.

without_fields!(
    /// LOGOFF request.
    Request = "LOGOFF request"
);
without_fields!(
    /// LOGOFF response.
    Response = "LOGOFF response"
);
