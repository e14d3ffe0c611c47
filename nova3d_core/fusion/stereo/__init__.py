"""Multi-view stereo in a band around the present surface: depths that only colours determine."""
