"""One file a method; `conf/method/<name>.yaml` names its class, and that file is the whole registration."""
