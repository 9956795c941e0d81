"""A stand-in for the backend in the add-on's tests: speaks the same protocol, needs only numpy, obeys odd prompts."""
