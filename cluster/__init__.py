"""Where plain classes become Ray actors and Serve deployments, and machines talk."""
