release {
  version = 1
}
