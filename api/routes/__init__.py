"""The JSON API by domain. Handlers read the request, call a storage service, and shape the answer; queries and rules live below."""
